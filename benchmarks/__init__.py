"""What is measured, not tested: speed and memory, side by side with the usual way. Results in benchmarks/results/."""
