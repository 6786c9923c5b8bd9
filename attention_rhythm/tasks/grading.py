"""Grade a response: one entry, `grade`, and one short grader per kind of answer.

Mathematics: the last complete \\boxed{...}, else a last line `#### 18`, else what math-verify takes for the last answer
of the text; compared by math-verify under a time limit (math_judge.py). Countdown: TinyZero's reward, by a parser
(tasks/countdown.py). Multiple choice and zebra puzzles: a letter, or the text of an option, or a name. Responses are
cut to their last MAX_RESPONSE characters first and answers longer than MAX_ANSWER are wrong, so that every step takes
bounded time. What this grades wrongly, and how often: docs/grading.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from attention_rhythm.tasks.base import LETTERS, Problem
from attention_rhythm.tasks.countdown import countdown_answer, countdown_reward
from attention_rhythm.tasks.math_judge import shared_judge
from attention_rhythm.tasks.registry import MATH_TASKS, TASKS

MAX_RESPONSE = 200_000  # characters; 32k tokens are about 130,000
MAX_ANSWER = 2_000  # characters; the longest gold answer of the benchmarks has 204
MAX_TAIL = 2_000  # characters searched for an answer that is not boxed


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


# --- mathematics ------------------------------------------------------------------------------------------------------


def grade_math(gold: str, response: str) -> Grade:
    """Compare a response with a gold answer (LaTeX, with or without dollars)."""
    gold = plain_latex(gold)
    answer = last_boxed(response)
    if answer is None:  # a box that never closes was cut off and is no answer; what stands before it may be
        prose = BOX.split(response, maxsplit=1)[0][-MAX_TAIL:]
        mark = GSM8K_MARK.search(prose)
        if mark is None:
            verdict = shared_judge().judge(gold, prose, text=True)
            return Grade(verdict.equal, float(verdict.equal), verdict.extracted)
        answer = mark.group(1)
    if len(answer) > MAX_ANSWER:
        return Grade(False, 0.0, answer[:MAX_ANSWER])
    candidate = plain_latex(answer)
    if NUMBER.fullmatch(gold) and (match := NUMBER_AND_WORDS.fullmatch(candidate)):
        candidate = match.group(1)  # "18 dollars", which math-verify reads as a product of letters
    verdict = shared_judge().judge(gold, candidate)
    return Grade(verdict.equal, float(verdict.equal), answer)


BOX = re.compile(r"\\f?boxed\s*\{")
GSM8K_MARK = re.compile(r"####\s*(\$?-?[\d,]*\.?\d+)\s*$")
NUMBER = re.compile(r"-?[\d,]*\.?\d+")
NO_UNIT = "hundred|thousand|million|billion|trillion|dozen|pi|sqrt|sin|cos|tan|log|ln|exp|infinity"
NUMBER_AND_WORDS = re.compile(rf"(-?(?:\\\$)?[\d,]*\.?\d+) (?!(?:{NO_UNIT})\b)[A-Za-z]{{2,}}(?: [A-Za-z]+)*\.?")
LAST_BOXES = 20  # how many unclosed boxes at the end of a text are passed over in search of one that closes


def last_boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} whose braces balance, None where there is none. Linear in the text."""
    for start in reversed([match.end() for match in BOX.finditer(text)][-LAST_BOXES:]):
        depth = 1
        for match in re.finditer(r"\\.|[{}]", text[start:], flags=re.DOTALL):
            depth += {"{": 1, "}": -1}.get(match.group(), 0)  # an escaped brace opens nothing
            if depth == 0:
                return text[start : start + match.start()].strip()
    return None


def plain_latex(answer: str) -> str:
    """An answer without dollars (math mode is implied), its computer notations in the LaTeX that math-verify knows."""
    answer = re.sub(r"(?<!\\)\$", "", answer).strip().rstrip(". ")
    answer = re.sub(r"\\(?:textbf|mathbf|boldsymbol)\s*\{([^{}]*)\}", r"\1", answer)
    answer = re.sub(r"\bnp\.(?=[a-z])", r"\\", answer)  # Minerva: np.arcsin(10/13)
    answer = re.sub(r"(?<=\d)\.(?![\d.])", "", answer)  # Minerva: -3./2
    return re.sub(r"(?<![\w\\.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w)", r"\1 \\times 10^{\2}", answer)  # 4.5e33


# --- countdown --------------------------------------------------------------------------------------------------------


def grade_countdown(problem: Problem, response: str) -> Grade:
    """TinyZero's reward; correct where it is 1.0. Numbers and target come from the problem's metadata."""
    score = countdown_reward(response, problem.metadata["numbers"], problem.metadata["target"])
    return Grade(score == 1.0, score, countdown_answer(response))


# --- multiple choice and names ----------------------------------------------------------------------------------------

STATED = re.compile(r"\banswer\b[^\n:]{0,60}?(?:\bis\b|:)\s*:?([^\n]+)", re.IGNORECASE)
# (C)   C   C.   C: text   C because ...   but neither "Cats" nor the words "A" and "I"
LETTER = re.compile(r"\(([A-Z])\)|(?![AI] [a-z])([A-Z])(?![\w'])")


def grade_choice(problem: Problem, response: str) -> Grade:
    """The stated answer is the right option by its letter or its text, or, where there are no options, the name."""
    answer = stated_answer(response)
    if answer is None:
        return NO_ANSWER
    options = dict(zip(LETTERS, problem.choices or (), strict=False))
    gold = normalised(options.get(problem.answer, problem.answer))
    correct = normalised(answer) == gold
    if not correct and normalised(answer) not in map(normalised, options.values()):
        correct = normalised(options.get(_letter(answer) or "", "")) == gold
    return Grade(correct, float(correct), answer)


def stated_answer(response: str) -> str | None:
    """The last box, else what follows the last "answer is" or "answer:", else the last line; without its mark-up."""
    answer = last_boxed(response)
    if answer is None:
        tail = response.rstrip()[-MAX_TAIL:]
        stated = STATED.findall(tail)
        answer = stated[-1] if stated else tail.rpartition("\n")[2]
    answer = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", answer[:MAX_ANSWER])
    return re.sub(r"[*$`]+", "", answer).strip() or None


def _letter(answer: str) -> str | None:
    """The letter an answer is or begins with, None where it is or begins with a word."""
    if len(answer) == 1:
        return answer.upper()
    match = LETTER.match(answer)
    return match and (match.group(1) or match.group(2))


def normalised(text: str) -> str:
    """Text without case, repeated space and the punctuation at its ends."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'()")
