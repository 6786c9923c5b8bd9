"""Cost of the attention signals on a GPU, by sequence length: the methods of `benchmarks.attention`, in bfloat16.

    python -m benchmarks.attention_cuda [--lengths 1024,2048,...] [--repeats N]

A model of the shape of Qwen3-4B with random weights (its speed does not depend on what they are), one sequence, the
last three quarters of it the response. `logp` against `fused` is the claim: at most 3 percent, and memory that grows
with the length and not with its square; the eager methods stand beside it until the GPU's memory is spent. Methods
take turns in one process; memory is the most that PyTorch held above the weights. Results are written after every
length.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_rhythm.errors import ReproError
from attention_rhythm.memory import OutOfMemory, is_out_of_memory
from benchmarks.attention import NAMES, methods
from benchmarks.record import make_claim, report, run, write
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "attention_cuda.json"
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
METHODS = tuple(name for name in NAMES if name != "windowed")  # that needs a model of its own
QWEN3_4B = {
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "tie_word_embeddings": True,
}
FUSED, MEMORY_EXPONENT = 1.03, 1.1  # what is claimed: at most

Method = Callable[[Any, Any], None]


def random_model(sizes: dict[str, Any], device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> torch.nn.Module:
    """A Qwen3 of these sizes with random weights, in eval mode."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(Qwen3Config(**sizes)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def cost(call: Callable[[], None], device: str) -> dict[str, float]:
    """Seconds until the device is done, and the most memory held above what was held before, in MiB; NaN on a CPU,
    where PyTorch does not count it."""
    if device == "cpu":
        started = time.perf_counter()
        call()
        return {"wall_seconds": time.perf_counter() - started, "above_weights_mib": float("nan")}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {"wall_seconds": seconds, "above_weights_mib": (torch.cuda.max_memory_allocated() - before) / 2**20}


@torch.inference_mode()
def measure(
    runs: dict[str, Method], vocabulary: int, length: int, repeats: int, device: str = "cuda"
) -> list[dict[str, Any]]:
    """A row for each method of `runs`; a method that runs out of memory has `out_of_memory` and leaves `runs`."""
    ids = torch.randint(0, vocabulary, (1, length), device=device)
    response = torch.arange(length, device=device)[None] >= length // 4
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    rows = []
    _forget(device)
    for repeat in range(repeats + 1):  # the first round compiles kernels and is thrown away
        for name in list(runs) if repeat % 2 == 0 else list(runs)[::-1]:
            own = None
            try:
                own = cost(lambda name=name: runs[name](ids, response), device)
            except (RuntimeError, OutOfMemory) as error:  # the actor has tried halves, and says so in its own words
                if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
                    raise
            if own is None:  # only here is the error gone, and with its traceback what the method held
                del runs[name]
                _forget(device)
                rows.append({"length": length, "method": name, "out_of_memory": True})
                print(f"{length} {name}: out of memory", flush=True)
            elif repeat:
                costs[name].append(own)
    for name in runs:
        row = {"length": length, "method": name, "rounds": [c["wall_seconds"] for c in costs[name]]}
        row["wall_seconds"] = statistics.median(row["rounds"])
        row["above_weights_mib"] = max(c["above_weights_mib"] for c in costs[name])
        rows.append(row)
        print(f"{length} {name}: {row['wall_seconds']:.3f} s, {row['above_weights_mib']:.0f} MiB", flush=True)
    return rows


def _forget(device: str) -> None:
    """Give back what PyTorch keeps for later. Not while time is measured: it would be asked for anew."""
    if device == "cuda":
        torch.cuda.empty_cache()


def rounds_at(length: int, repeats: int) -> int:
    """Rounds at a length, `repeats` from 16k on: the shorter a pass, the larger its scatter, and the less it costs."""
    return max(repeats, min(5 * repeats, repeats * 16_384 // length))


def rounds_that_fit(rows: Sequence[dict[str, Any]], length: int, seconds_left: float, most: int) -> int:
    """Rounds at `length`, at most `most`, for which `seconds_left` suffices, beside the one that is thrown away.

    From the rows of the length before, as if time grew with the square. 0: there is no time for three.
    """
    last = max(row["length"] for row in rows)
    one_round = sum(row["wall_seconds"] for row in rows if row["length"] == last and "rounds" in row)
    one_round *= (length / last) ** 2
    fitting = min(most, seconds_left / one_round - 1) if one_round else most
    return int(fitting) if fitting >= min(3, most) else 0


def series(
    runs: dict[str, Method],
    vocabulary: int,
    lengths: Sequence[int],
    repeats: int,
    device: str,
    deadline: float = float("inf"),
) -> Iterator[list[dict[str, Any]]]:
    """All rows so far, after every length, shortest first; lengths for which there is no time are `no_time`.

    deadline: on the clock of `time.monotonic`.
    """
    rows: list[dict[str, Any]] = []
    for length in sorted(lengths):
        rounds = rounds_at(length, repeats)
        if rows:
            rounds = rounds_that_fit(rows, length, deadline - time.monotonic(), rounds)
        if not rounds:
            rows += [{"length": more, "no_time": True} for more in sorted(lengths) if more >= length]
            yield rows
            return
        rows += measure(runs, vocabulary, length, rounds, device)
        yield rows


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Of log y over log x, by least squares; None for fewer than two points, or where some y is not positive."""
    if len(x) < 2 or not min(y) > 0:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`fused` of `logp` at each length; the exponent of the memory of `fused` in the length, and at the end.

    A part that grows with the square shows in the last doubling first.
    """
    by = {(row["length"], row["method"]): row for row in rows if "rounds" in row}
    found = []
    for length in sorted({length for length, _ in by}):
        if (length, "fused") in by and (length, "logp") in by:
            pairs = zip(by[length, "fused"]["rounds"], by[length, "logp"]["rounds"], strict=True)
            value = statistics.median(a / b for a, b in pairs)
            found.append(make_claim("fused_of_logp", value, "<=", FUSED, length=length))
    fused = [row for (_, method), row in sorted(by.items()) if method == "fused"]
    lengths, memory = [row["length"] for row in fused], [row["above_weights_mib"] for row in fused]
    for name, points in (("fused_memory_exponent", slice(None)), ("fused_memory_exponent_at_the_end", slice(-2, None))):
        found.append(make_claim(name, slope(lengths[points], memory[points]), "<=", MEMORY_EXPONENT))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_cuda", description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), metavar="N,N")
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="from 16k on; up to five times as many below"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise ReproError("PyTorch sees no GPU: not run")
    every = methods(random_model(QWEN3_4B))
    runs = {name: every[name] for name in METHODS}
    rows: list[dict[str, Any]] = []
    settings = {"model": QWEN3_4B, "dtype": "bfloat16", "repeats": options.repeats}
    lengths = [int(length) for length in options.lengths.split(",")]
    for rows in series(runs, QWEN3_4B["vocab_size"], lengths, options.repeats, "cuda"):
        write(options.output, {"settings": settings, "rows": rows, "claims": claims(rows)})
    report(options.output, claims(rows))
    return 0


if __name__ == "__main__":
    run(main)
