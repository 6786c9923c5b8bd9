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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attention_rhythm.errors import ReproError
from benchmarks.attention import methods
from benchmarks.growth import exponent
from benchmarks.record import make_claim, report, run, write
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "attention_cuda.json"
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


def random_model(sizes: dict[str, Any]) -> torch.nn.Module:
    """A Qwen3 of these sizes on the GPU, bfloat16, in eval mode."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return Qwen3ForCausalLM(Qwen3Config(**sizes)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def cost(call: Callable[[], None]) -> dict[str, float]:
    """Seconds until the GPU is done, and the most memory held above what was held before, in MiB."""
    torch.cuda.empty_cache()
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
    runs: dict[str, Callable[[Any, Any], None]], vocabulary: int, length: int, repeats: int
) -> list[dict[str, Any]]:
    """A row for each method of `runs`; a method that runs out of memory has `out_of_memory` and leaves `runs`."""
    ids = torch.randint(0, vocabulary, (1, length), device="cuda")
    response = torch.arange(length, device="cuda")[None] >= length // 4
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    rows = []
    for repeat in range(repeats + 1):  # the first round compiles kernels and is thrown away
        for name in list(runs) if repeat % 2 == 0 else list(runs)[::-1]:
            try:
                own = cost(lambda name=name: runs[name](ids, response))
            except torch.OutOfMemoryError:
                del runs[name]
                rows.append({"length": length, "method": name, "out_of_memory": True})
                print(f"{length} {name}: out of memory", flush=True)
                continue
            if repeat:
                costs[name].append(own)
    for name in runs:
        row = {"length": length, "method": name, "rounds": [c["wall_seconds"] for c in costs[name]]}
        row["wall_seconds"] = statistics.median(row["rounds"])
        row["above_weights_mib"] = max(c["above_weights_mib"] for c in costs[name])
        rows.append(row)
        print(f"{length} {name}: {row['wall_seconds']:.3f} s, {row['above_weights_mib']:.0f} MiB", flush=True)
    return rows


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`fused` of `logp` at each length, and the exponent of the memory of `fused` in the length."""
    by = {(row["length"], row["method"]): row for row in rows if "rounds" in row}
    found = []
    for length in sorted({length for length, _ in by}):
        if (length, "fused") in by and (length, "logp") in by:
            pairs = zip(by[length, "fused"]["rounds"], by[length, "logp"]["rounds"], strict=True)
            value = statistics.median(a / b for a, b in pairs)
            found.append(make_claim("fused_of_logp", value, "<=", 1.03, length=length))
    fused = [row for (_, method), row in sorted(by.items()) if method == "fused"]
    fit = exponent([row["length"] for row in fused], [row["above_weights_mib"] for row in fused])
    return [*found, {"claim": "fused_memory_exponent", **fit}]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_cuda", description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384,32768,65536", metavar="N,N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise ReproError("PyTorch sees no GPU: not run")
    runs = methods(random_model(QWEN3_4B))
    rows: list[dict[str, Any]] = []
    for length in map(int, options.lengths.split(",")):
        rows += measure(runs, QWEN3_4B["vocab_size"], length, options.repeats)
        settings = {"model": QWEN3_4B, "dtype": "bfloat16", "repeats": options.repeats}
        write(options.output, {"settings": settings, "rows": rows, "claims": claims(rows)})
    report(options.output, claims(rows))
    return 0


if __name__ == "__main__":
    run(main)
