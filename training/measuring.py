"""How a policy is measured and rewarded: correct answers to problems, sampled or greedy."""

from __future__ import annotations

from typing import Any

import numpy as np

from attention_rhythm.generation.base import Generator, SamplingConfig
from attention_rhythm.generation.resumable import generate_in_parts
from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.prompts import build_prompt_ids


def correct(problem: Problem, text: str) -> float:
    """The reward: 1 for a correct answer, else 0.

    The grader's own score pays 0.1 for a wrong answer and nothing for a search that was cut off: with it, the policy
    learned to answer at once, and its accuracy collapsed.
    """
    return float(grade(problem, text).correct)


def sampled_accuracy(
    generator: Generator, tokenizer: Any, problems: list[Problem], *, samples: int, max_new_tokens: int, batch: int
) -> np.ndarray:
    """Correctness (P, samples) of responses at T = 1; one greedy response each where `samples` is 0, (P, 1)."""
    sampling = SamplingConfig(max_new_tokens, temperature=1.0 if samples else 0.0, samples=max(samples, 1), seed=1)
    prompts = [build_prompt_ids(problem, tokenizer) for problem in problems]
    at_once = max(1, batch // sampling.samples)
    completions = generate_in_parts(generator, prompts, sampling, at_once, "generation_batch", title="held-out")
    right = [grade(problems[i // sampling.samples], c.text).correct for i, c in enumerate(completions)]
    return np.array(right).reshape(len(problems), sampling.samples)
