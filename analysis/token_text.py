"""What the tokens of a response say: their text, their kind, the parts they begin, and where the answer is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np

from attention_rhythm.generation.conventions import ResponseText

KINDS = ("word", "number", "punctuation", "space", "end")  # of tokens; end: a stop token
BOUNDARIES = ".,;:!?\n"  # the token behind one begins a part of the text


def pieces_of(text: ResponseText, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of a response: together they are the text."""
    written = [text(ids[:count]) for count in range(len(ids) + 1)]
    return [now.removeprefix(before) if now.startswith(before) else "" for before, now in pairwise(written)]


def answer_tokens(pieces: Sequence[str], answer: str | None) -> slice | None:
    """The tokens of a response's last mention of its answer, spaces aside; None where the text has it not."""
    letters = [(letter, token) for token, piece in enumerate(pieces) for letter in piece if not letter.isspace()]
    wanted = "".join((answer or "").split())
    place = "".join(letter for letter, _ in letters).rfind(wanted) if wanted else -1
    return None if place < 0 else slice(letters[place][1], letters[place + len(wanted) - 1][1] + 1)


def begins_part(pieces: Sequence[str]) -> np.ndarray:
    """(n,) bool: the first token, and each behind a token that ends in a boundary."""
    ends = [bool(piece.rstrip(" ")) and piece.rstrip(" ")[-1] in BOUNDARIES for piece in pieces]
    return np.array([True, *ends[:-1]])[: len(pieces)]


def kind_of(piece: str, token: int = -1, stops: Collection[int] = ()) -> str:
    """One of KINDS."""
    if token in stops:
        return "end"
    if not piece.strip():
        return "space"
    if any(letter.isdigit() for letter in piece):
        return "number"
    return "word" if any(letter.isalpha() for letter in piece) else "punctuation"
