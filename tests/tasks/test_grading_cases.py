"""Answers as models write them, right ones and wrong ones, and the examples in the docstrings of the rules."""

import doctest
import json
from pathlib import Path

import pytest

from attention_rhythm.tasks import answers, choices, latex, math_answers, quantities
from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.grading import grade

LINES = (Path(__file__).parents[1] / "cases" / "grading.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [json.loads(line) for line in LINES]


def problem(case):
    options = tuple(case["choices"]) if "choices" in case else None
    puzzle = {name: case[name] for name in ("numbers", "target") if name in case}
    return Problem(case["id"], "?", case["answer"], case["task"], choices=options, metadata=puzzle)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_case_is_graded_as_expected(case):
    """`expected` is whether the response is right; of Countdown, the score."""
    result = grade(problem(case), case["response"])
    found = result.score if case["task"] == "countdown" else result.correct
    assert found == case["expected"], f"{case['kind']}: {result}"


def test_every_case_has_its_own_id():
    assert len({case["id"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "module", [answers, latex, quantities, math_answers, choices], ids=lambda module: module.__name__
)
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
