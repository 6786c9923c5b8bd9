"""Accuracy on benchmarks, and the responses that the other rooms study."""
