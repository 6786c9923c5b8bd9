"""Section 4 of the paper: attention signals, their couplings, and perturbation."""
