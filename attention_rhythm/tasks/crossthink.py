"""CrossThink-QA: multiple choice over many subjects (nvidia/Nemotron-CrossThink).

No hub source: no commit of that repository could be pinned when this was written, so it needs a file in DATA_DIR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attention_rhythm.tasks.base import LETTERS, Problem, Row, Task, id_field, rest_of, text_field


def parse_crossthink(row: Row, index: int) -> Problem:
    """A row with `question`, `choices` (letter -> text, from A on without gaps) and `answer` (a letter of them).

    ValueError: a row whose answer is none of its choices.
    """
    choices = row["choices"]
    if not isinstance(choices, Mapping):
        raise ValueError("'choices' is not an object of letters and texts")
    letters = "".join(sorted(choices))
    if not letters or letters != LETTERS[: len(letters)]:
        raise ValueError(f"'choices' has the letters {letters!r}, not A, B, ...")
    answer = text_field(row, "answer")
    if answer not in choices:
        raise ValueError(f"'answer' {answer!r} is not a letter of 'choices'")
    return Problem(
        id=id_field(row, f"crossthink-{index}"),
        question=without_options(text_field(row, "question")),
        answer=answer,
        task="crossthink_qa",
        choices=tuple(text_field(choices, letter) for letter in letters),
        metadata=rest_of(row, "id", "question", "choices", "answer"),
    )


def without_options(question: str) -> str:
    """The question less the options the source appends to it, from the line `A: ...` on: the prompt lists them."""
    starts = list(re.finditer(r"\n\s*A\s*[:.)]\s", question))
    return question[: starts[-1].start()].rstrip() if starts else question


TASKS = (
    Task(
        "crossthink_qa",
        parse_crossthink,
        files={"test": "crossthink_qa.jsonl", "train": "crossthink_qa_train.jsonl"},
    ),
)
