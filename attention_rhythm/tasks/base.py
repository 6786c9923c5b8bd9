"""What a problem is, what a task is, and the small readers that turn a data row into a problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import sha256_of

Row = Mapping[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of the options of a multiple choice


class DataError(ReproError, ValueError):
    """A benchmark file or row that cannot be read; the message names the file and the line."""


class NoSuchTask(UsageError, ValueError):
    """A task, a split, a source or a number of problems that there is not."""


class NoSource(DataError):
    """A benchmark that cannot be had here: no file of it, no hub, no generator."""


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    id: unique within its task. question: what the model is asked, without the options. answer: the gold answer as the
    grader of the task reads it (LaTeX, a number, an option's letter, a name). task: the task whose grader applies.
    context: a passage the question is about. choices: the texts of the options, A first. metadata: what else the source
    has, and always `source` (file | hub | generated) with its particulars once it comes from `load_problems`.
    """

    id: str
    question: str
    answer: str
    task: str
    context: str | None = None
    choices: tuple[str, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset repository on the Hugging Face hub, at one commit."""

    repo: str
    revision: str
    path: str


@dataclass(frozen=True)
class Generated:
    """A benchmark made on the fly: `size` problems, the i-th by `make(i)`, always the same one."""

    size: int
    make: Callable[[int], Problem]
    origin: str


@dataclass(frozen=True)
class Task:
    """Where the problems of one benchmark come from and how one row becomes a Problem.

    files: split -> file name in DATA_DIR. hub: split -> file on the hub. parse(row, index): a row of either.
    select(rows, split): the rows of a hub file that belong to the split. generate(split): stands in for both.
    """

    name: str
    parse: Callable[[Row, int], Problem]
    files: Mapping[str, str] = field(default_factory=dict)
    hub: Mapping[str, HubFile] = field(default_factory=dict)
    select: Callable[[Sequence[Row], str], Sequence[Row]] | None = None
    generate: Callable[[str], Generated] | None = None
    generated_splits: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that some source has."""
        return tuple(sorted({*self.files, *self.hub, *self.generated_splits}))


def problems_sha256(problems: Iterable[Problem]) -> str:
    """Of everything in some problems, and their order."""
    return sha256_of([repr(problem) for problem in problems])


def text_field(row: Row, *names: str) -> str:
    """The first of `names` that the row has, as non-empty text. ValueError where there is none."""
    for name in names:
        if (text := text_of(row.get(name))) is not None:
            return text
    raise ValueError(f"no text in {' or '.join(repr(name) for name in names)}")


def text_of(value: Any) -> str | None:
    """A text or a finite number as text without white space around it; None for what is neither, or empty."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value).strip() or None


def texts_field(row: Row, name: str) -> tuple[str, ...]:
    """A list of texts. ValueError: no list, or something in it that is no text."""
    values = row[name]
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{name!r} is not a list")
    texts = tuple(text for value in values if (text := text_of(value)) is not None)
    if len(texts) < len(values):
        raise ValueError(f"something in {name!r} is no text")
    return texts


def id_field(row: Row, default: str, *names: str) -> str:
    """The first of `names` (`id` if there are none) that is not null; `default`, which has the row's number, without.

    ValueError: an id that is no text and no number.
    """
    for name in names or ("id",):
        if row.get(name) is not None:
            return text_field(row, name)
    return default


def rest_of(row: Row, *used: str) -> dict[str, Any]:
    """The fields of a row that no attribute of the Problem holds."""
    return {name: value for name, value in row.items() if name not in used and value is not None}
