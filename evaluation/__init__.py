"""Evaluation: problems, prompts, graders, generation and accuracy with intervals (imports nothing of ours)."""
