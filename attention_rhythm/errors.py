"""Errors that end a run with one line for the person who started it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReproError(Exception):
    """A run that cannot go on, with a one-line message for the person who started it. Exit status 1."""

    exit_status = 1


class UsageError(ReproError):
    """Something was asked for that does not exist or is malformed (profile, stage, model). Exit status 2."""

    exit_status = 2


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence about a name that is none of the known ones, with the one that may have been meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"unknown {kind} {name!r}: {guess}one of {', '.join(names)}"


class InputError(ReproError, ValueError):
    """What was handed to a function makes no sense; the message says what, and what would."""


class NotFinite(ReproError, ValueError):
    """NaN or an infinity where only numbers make sense: what comes after it would be noise."""
