"""The reward: evaluation's grader, on the problem that data.py put into the row."""

from __future__ import annotations

import json
from typing import Any

from attention_rhythm.errors import UsageError
from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.grading import grade


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> dict:
    """score: the grader's, in [0, 1]; acc: 1 for a correct answer, else 0.

    UsageError: a row without the problem, or with something else in its place.
    """
    result = grade(_problem(extra_info), solution_str)
    return {"score": float(result.score), "acc": float(result.correct)}


def _problem(extra_info: Any) -> Problem:
    try:
        return Problem(**json.loads(extra_info["problem"]))
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(
            "this reward grades the problem in extra_info['problem'], and the row has none that can be read: make the"
            " parquet files by python -m attention_rhythm.integrations.verl.data, or set a reward function of your own"
        ) from error
