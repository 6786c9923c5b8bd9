"""Generators: one protocol, one file an engine."""
