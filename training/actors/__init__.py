"""The three actors of Sec. 5: one generates, one reads signals and old log-probabilities, one updates the weights."""
