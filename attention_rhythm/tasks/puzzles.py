"""Small Countdown puzzles, all of them, and their solver: what the embedded policy is trained on.

A puzzle: three whole numbers and a target that + - * / reach, every number used once, every value on the way a whole
number from 0 to MAX_VALUE. There are few enough to list all of them, shuffle the list once, and deal it out: test, dev
and train share no puzzle.

Deviations from the benchmark of the same name (countdown.py, whose grader is used as it is): three numbers instead of
four, all of them small, and a prompt of one line.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

from attention_rhythm.tasks.base import Problem

NUMBERS = 3
NUMBER_RANGE = (1, 12)  # both ends included, like TARGET_RANGE
TARGET_RANGE = (5, 60)
MAX_VALUE = 60  # of a value on the way: few sums to know by heart, so that a short warm start knows them
DEAL_SEED = 0
HELD_OUT = 512  # puzzles of test, and of dev
SPLITS = ("test", "dev", "train")


class Step(NamedTuple):
    """left operator right = value, all whole numbers; the larger operand stands left."""

    left: int
    operator: str
    right: int
    value: int


Way = tuple[Step, ...]  # from all numbers down to one


class Puzzle(NamedTuple):
    """numbers in rising order, and a target that they reach."""

    numbers: tuple[int, ...]
    target: int


# --- solver -----------------------------------------------------------------------------------------------------------


@functools.cache
def ways(numbers: tuple[int, ...]) -> tuple[Way, ...]:
    """Every way to combine `numbers` (in rising order) into one, each once, in a fixed order."""
    if len(numbers) == 1:
        return ((),)
    found: dict[Way, None] = {}
    for i, j in itertools.combinations(range(len(numbers)), 2):
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for step in _steps(numbers[j], numbers[i]):
            for way in ways(tuple(sorted([*rest, step.value]))):
                found[(step, *way)] = None
    return tuple(found)


def _steps(large: int, small: int) -> Iterator[Step]:
    values = {"+": large + small, "-": large - small, "*": large * small}
    if small and large % small == 0:
        values["/"] = large // small
    for operator, value in values.items():
        if value <= MAX_VALUE:
            yield Step(large, operator, small, value)


def solutions(puzzle: Puzzle) -> list[Way]:
    """The ways that reach the target; empty where none does."""
    return [way for way in ways(puzzle.numbers) if way[-1].value == puzzle.target]


# --- puzzles ----------------------------------------------------------------------------------------------------------


@functools.cache
def puzzles(split: str) -> tuple[Puzzle, ...]:
    """The puzzles of test, dev or train, always the same; ValueError for another split."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    dealt = _all_puzzles()
    cuts = {"test": (0, HELD_OUT), "dev": (HELD_OUT, 2 * HELD_OUT), "train": (2 * HELD_OUT, len(dealt))}
    return tuple(dealt[slice(*cuts[split])])


def _all_puzzles() -> list[Puzzle]:
    low, high = NUMBER_RANGE
    everything = []
    for numbers in itertools.combinations_with_replacement(range(low, high + 1), NUMBERS):
        reached = {way[-1].value for way in ways(numbers)}
        everything += [Puzzle(numbers, t) for t in range(TARGET_RANGE[0], TARGET_RANGE[1] + 1) if t in reached]
    random.Random(DEAL_SEED).shuffle(everything)
    return everything


def problem(puzzle: Puzzle, identity: str) -> Problem:
    """A puzzle as the graders and the prompts of evaluation/ know it."""
    question = f"{' '.join(map(str, puzzle.numbers))} -> {puzzle.target}"
    metadata = {"numbers": list(puzzle.numbers), "target": puzzle.target, "source": "generated"}
    return Problem(identity, question, str(puzzle.target), "countdown", metadata=metadata)


def load_puzzles(split: str, limit: int | None = None) -> list[Problem]:
    """The first `limit` puzzles (None: all) of a split, as problems."""
    return [problem(puzzle, f"puzzle-{split}-{i}") for i, puzzle in enumerate(puzzles(split)[:limit])]
