"""Grade a response: one entry, `grade`, and one short grader per kind of answer.

Mathematics: the final answer (answers.py) against the gold answer (math_answers.py), expressions by math-verify under a
time limit (math_judge.py). Countdown: TinyZero's reward, by a parser (countdown.py). Multiple choice and zebra puzzles:
an option or a name (choices.py). Responses are cut to their last MAX_RESPONSE characters first and answers longer than
MAX_ANSWER are wrong, so that every step takes bounded time. What counts as right, and what this grades wrongly and how
often: docs/grading.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from attention_rhythm.tasks.answers import final_answer
from attention_rhythm.tasks.base import LETTERS, Problem
from attention_rhythm.tasks.choices import chosen, gives_name, same_text, stated_answer
from attention_rhythm.tasks.countdown import countdown_answer, countdown_reward
from attention_rhythm.tasks.latex import unicode_symbols
from attention_rhythm.tasks.math_answers import same_answer
from attention_rhythm.tasks.math_judge import shared_judge
from attention_rhythm.tasks.registry import MATH_TASKS, TASKS

MAX_RESPONSE = 200_000  # characters; 32k tokens are about 130,000
MAX_ANSWER = 2_000  # characters, as they stand and as LaTeX; the longest gold answer of the benchmarks has 204
JUDGE_SECONDS = 0.5  # after which no further reading of one answer is judged


@dataclass(frozen=True)
class Grade:
    """correct: full marks. score: the reward, in [0, 1]. extracted: the answer graded, None where none was found."""

    correct: bool
    score: float
    extracted: str | None


NO_ANSWER = Grade(False, 0.0, None)


def grade(problem: Problem, response_text: str) -> Grade:
    """Grade one response. Never raises for what a response says; ValueError for a problem of an unknown task."""
    if problem.task not in TASKS:
        raise ValueError(f"unknown task {problem.task!r}; known: {', '.join(sorted(TASKS))}")
    response = response_text[-MAX_RESPONSE:]
    if problem.task in MATH_TASKS:
        return grade_math(problem.answer, response)
    if problem.task == "countdown":
        return grade_countdown(problem, response)
    return grade_choice(problem, response)


def grade_math(gold: str, response: str) -> Grade:
    """Compare a response with a gold answer (LaTeX, with or without dollars)."""
    answer = final_answer(response)
    if answer is None:
        return NO_ANSWER
    if len(answer) > MAX_ANSWER or len(unicode_symbols(answer)) > MAX_ANSWER:  # "½" is eleven characters of LaTeX
        return Grade(False, 0.0, answer[:MAX_ANSWER])
    correct = same_answer(gold, answer, _Judge())
    return Grade(correct, float(correct), answer)


class _Judge:
    """Asks math-verify about the readings of one answer, until one of them ran into the time limit."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + JUDGE_SECONDS
        self.undecided = False

    def __call__(self, gold: str, answer: str) -> bool:
        if self.undecided or time.monotonic() > self.deadline:
            return False
        verdict = shared_judge().judge(gold, answer)
        self.undecided = not verdict.decided
        return verdict.equal


def grade_countdown(problem: Problem, response: str) -> Grade:
    """TinyZero's reward; correct where it is 1.0. Numbers and target come from the problem's metadata."""
    score = countdown_reward(response, problem.metadata["numbers"], problem.metadata["target"])
    return Grade(score == 1.0, score, countdown_answer(response))


def grade_choice(problem: Problem, response: str) -> Grade:
    """The stated answer is the right option by its letter or its text, or, where there are no options, the name."""
    answer = stated_answer(response)
    if answer is None:
        return NO_ANSWER
    options = dict(zip(LETTERS, problem.choices or (), strict=False))
    gold = options.get(problem.answer, problem.answer)
    if options:
        letter = chosen(answer, options)
        correct = letter is not None and same_text(options[letter], gold)
    else:
        correct = gives_name(answer, gold)
    return Grade(correct, float(correct), answer)
