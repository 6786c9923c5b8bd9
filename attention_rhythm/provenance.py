"""What a result was made with: versions, git commit, hardware."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "pandas",
    "reasoning-gym",
    "math-verify",
    "vllm",
    "verl",
)


def environment() -> dict[str, Any]:
    """Versions, git commit and hardware of this machine; no path, host or user name."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in _LIBRARIES if (version := _version(name))},
        "git": _commit(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": _gpu_names(),
        },
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


class _GitRefused(Exception):
    """Git does not answer; why, without a path of this machine."""


def _commit() -> dict[str, Any] | None:
    """The commit, and whether it is all there is; None outside a clone; where git refuses, why, with a warning."""
    if not (_ROOT / ".git").exists():  # installed: what is above may be a repository of the user's own
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", ":!results"))}
    except _GitRefused as refused:
        _warn(f"the commit is not recorded: {refused}")
        return {"commit": None, "dirty": None, "refused": str(refused)}


def _git(*arguments: str) -> str:
    """What git prints. _GitRefused: it is not there, too slow, or answers with an error."""
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise _GitRefused("git is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise _GitRefused("git did not answer within 30 s") from error
    if "dubious ownership" in done.stderr:
        raise _GitRefused(
            "the clone belongs to another user (dubious ownership): git config --global --add safe.directory FOLDER"
        )
    if done.returncode:
        raise _GitRefused(f"git {arguments[0]} ended with status {done.returncode}")
    return done.stdout.strip()


@functools.cache
def _warn(message: str) -> None:
    """Once a process: every stage asks for the commit."""
    logger.warning(message)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    torch = sys.modules.get("torch")  # a stage that used no torch used no GPU
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
