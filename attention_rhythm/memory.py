"""Work that did not fit into memory is done in halves, once; then the person who started it is told what to lower."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from attention_rhythm.errors import ReproError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")


class OutOfMemory(ReproError):
    """Neither a batch nor its halves fit into memory; the message says what to lower."""


def halved_once(work: Callable[[int], T], size: int, setting: str) -> T:
    """`work(size)`; where memory does not suffice for that, `work` of half the size, rounded up.

    Args:
        work: does everything, at most so many items at a time; an attempt that failed must have left nothing behind.
        setting: what decides the size, for the message.

    Raises:
        OutOfMemory: the halves do not fit either, or there is but one item.
    """
    for tried in dict.fromkeys((size, (size + 1) // 2)):
        try:
            return work(tried)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = _first_line(error)
        # Only here is the exception gone, and with its traceback the tensors of the failed attempt.
        logger.warning("out of memory with %d at a time: %s", tried, reason)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise OutOfMemory(f"out of memory with {tried} at a time ({reason}); lower {setting}")


def in_halves(work: Callable[[Sequence[Item]], Iterable[T]], items: Sequence[Item], setting: str) -> list[T]:
    """The results of `work` on all items at once; on each half of them where memory does not suffice for that."""

    def at_most(size: int) -> list[T]:
        return [result for i in range(0, len(items), size) for result in work(items[i : i + size])]

    return halved_once(at_most, len(items), setting) if len(items) else []


def is_out_of_memory(error: BaseException) -> bool:
    """Of the GPU, or of the CPU, where PyTorch's allocator raises a bare RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return type(error) is RuntimeError and ("DefaultCPUAllocator" in text or "not enough memory" in text)


def _first_line(error: BaseException) -> str:
    """Less the place in PyTorch's own sources, "[enforce fail at ...] err == 0. ", and type where there is no text."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.rpartition("err == 0. ")[2]
