"""Chains the stages: profiles, fingerprints, the command line, notebooks and generated pages."""
