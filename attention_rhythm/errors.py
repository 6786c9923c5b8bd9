"""Errors that end a run with one line for the person who started it."""

from __future__ import annotations


class ReproError(Exception):
    """A run that cannot go on, with a one-line message for the person who started it. Exit status 1."""

    exit_status = 1


class UsageError(ReproError):
    """Something was asked for that does not exist or is malformed (profile, stage, model). Exit status 2."""

    exit_status = 2


class NotFinite(ReproError, ValueError):
    """NaN or an infinity where only numbers make sense: what comes after it would be noise."""
