"""Section 4 of the paper: couplings of the signals, perturbation, credit of each token."""
