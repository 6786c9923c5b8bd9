"""Part `attention` of the GPU check: `benchmarks.attention_cuda` within a time, of the methods that its claims need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks import attention_cuda
from benchmarks.attention import methods
from benchmarks.record import make_claim

METHODS = ("logp", "fused", "signals", "eager")


def check(
    device: str,
    deadline: float,
    sizes: dict[str, Any] | None = None,
    lengths: Sequence[int] = attention_cuda.LENGTHS,
    repeats: int = 5,
) -> Iterator[dict[str, Any]]:
    """Rows and claims. Lengths for which there is no time left (on the clock of `time.monotonic`) are not run."""
    sizes = attention_cuda.QWEN3_4B if sizes is None else sizes
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    every = methods(attention_cuda.random_model(sizes, device, dtype))
    runs = {name: every[name] for name in METHODS}
    rows: list[dict[str, Any]] = []
    for so_far in attention_cuda.series(runs, sizes["vocab_size"], lengths, repeats, device, deadline):
        yield from so_far[len(rows) :]
        rows = list(so_far)
    yield from attention_cuda.claims(rows)
    for row in rows:
        if "no_time" in row:
            claim = make_claim("fused_of_logp", None, "<=", attention_cuda.FUSED, length=row["length"])
            yield claim | {"why": "no time left"}
