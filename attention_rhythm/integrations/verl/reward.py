"""The reward: evaluation's grader, on the problem that data.py put into the row."""

from __future__ import annotations

import json
from typing import Any

from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.grading import grade


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> dict:
    """score: the grader's, in [0, 1]; acc: 1 for a correct answer, else 0."""
    result = grade(Problem(**json.loads(extra_info["problem"])), solution_str)
    return {"score": float(result.score), "acc": float(result.correct)}
