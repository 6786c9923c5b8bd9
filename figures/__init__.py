"""One file per figure or table of the paper. Reads result files of results/PROFILE only: no model, no torch."""
