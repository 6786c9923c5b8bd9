"""How a command ends: done, or in one sentence on stderr and an exit status. REPRO_DEBUG=1 gives the traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from attention_rhythm.errors import ReproError
from attention_rhythm.files import shown

# What bad input, a full disk or a missing package raise. Anything else is a mistake of the program, shown in full.
FAILURES = (ReproError, OSError, ValueError, RuntimeError, ImportError, MemoryError)


def run_command(work: Callable[[], int | None], *, after_interrupt: str = "the same command begins anew") -> int:
    """Do `work`; the exit status: its own (None: 0), 1 failed, 2 wrong usage, 130 interrupted.

    after_interrupt: what the same command does after Ctrl-C; the interrupt may say in what it came.
    """
    try:
        return work() or 0
    except FAILURES as error:
        if os.environ.get("REPRO_DEBUG") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt as interrupt:
        where = f" in {interrupt}" if interrupt.args else ""
        print(f"\ninterrupted{where}; {after_interrupt}", file=sys.stderr)
        return 130


def one_line(error: BaseException) -> str:
    """An error as one line that says what to do, where that is known."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" ({shown(Path(error.filename))})" if error.filename else ""
        return f"the disk is full{where}; free some space and give the same command again"
    if isinstance(error, OSError) and error.filename and error.strerror:
        refused = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        advice = "; nothing can be written or read there" if refused else ""
        return f"{shown(Path(os.fsdecode(error.filename)))}: {error.strerror}{advice}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: give the command without --no-venv, or install requirements.txt into the active python"
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, ReproError) else f"{type(error).__name__}: {lines[0]}"
