"""Worked solutions of small Countdown puzzles that search: wrong tries first, then one that hits.

A worked solution is one line of words set apart by spaces, every number a word:

    3 * 7 = 21 , 21 - 8 = 13 no 8 * 3 = 24 , 24 / 7 ... no ... yes <answer> ( 3 * 7 ) + 8 </answer>
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from attention_rhythm.tasks.puzzles import Puzzle, Way, solutions, ways

TRY_AGAIN, FOUND = "no", "yes"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True)
class TraceConfig:
    """How a worked solution searches."""

    max_wrong: int = 5  # wrong tries before the right one are drawn uniformly from 0 to this (fewer if there are fewer)
    careless: float = 0.2  # probability that a wrong try is taken for the right one, and answered


def write_trace(puzzle: Puzzle, rng: random.Random, config: TraceConfig = TraceConfig()) -> str:
    """One worked solution, right unless it was careless. ValueError if the puzzle has none."""
    right = solutions(puzzle)
    if not right:
        raise ValueError(f"{puzzle} has no solution")
    wrong = [way for way in ways(puzzle.numbers) if way[-1].value != puzzle.target]
    tries = rng.sample(wrong, min(rng.randint(0, config.max_wrong), len(wrong)))
    found = rng.choice(right)
    searched = []
    for way in tries:
        if rng.random() < config.careless:
            found = way
            break
        searched.append(f"{_way_text(way)} {TRY_AGAIN}")
    answer = f"{ANSWER_OPEN} {expression(puzzle.numbers, found)} {ANSWER_CLOSE}"
    return " ".join([*searched, _way_text(found), FOUND, answer])


def expression(numbers: Sequence[int], way: Way) -> str:
    """The one expression that a way's steps amount to, bracketed, with a space between all words."""
    pool = [(number, str(number)) for number in numbers]

    def take(value: int) -> str:
        entry = next(entry for entry in pool if entry[0] == value)
        pool.remove(entry)
        return entry[1]

    for step in way:
        text = f"{take(step.left)} {step.operator} {take(step.right)}"
        pool.append((step.value, f"( {text} )"))
    return text  # the last step needs no brackets


def _way_text(way: Way) -> str:
    return " , ".join(f"{s.left} {s.operator} {s.right} = {s.value}" for s in way)
