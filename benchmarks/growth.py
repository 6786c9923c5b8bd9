"""How time and memory of the signals grow: with the length, the batch and the depth of the model.

    .venv/bin/python -m benchmarks.growth [--repeats N] [--threads N]

    separate   the streaming pass that ends after the last of its five layers
    fused      the old-log-prob pass with the signals recorded inside it

Random sequences, the last three quarters of each the response; SmolLM2-135M, float32, cut to its first layers for the
depth. One quantity varies and the others stay: N = 512 to 8192 at batch 1; batch 1 to 8 at N = 512; 6 to 30 layers at
N = 1024. An exponent is the slope of the logarithms (least squares) with its 95% interval. Memory is the peak above the
weights. `python -m figures.fig_growth` draws the result.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from attention_rhythm.models import DEFAULT_MODEL
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, measured, serve
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
PASSES = ("separate", "fused")
POINT = {"length": 512, "batch": 1, "layers": 30}
SERIES = {  # axis: what stays, and the values
    "length": (POINT, (512, 1024, 2048, 4096, 8192)),
    "batch": (POINT, (1, 2, 4, 8)),
    "layers": (POINT | {"length": 1024}, (6, 12, 18, 24, 30)),
}
BOUND = (0.9, 1.1)  # of the exponent of memory in the length


def prepare(name: str) -> tuple[Callable[[dict[str, int]], dict[str, float]], str]:
    """A pass as a worker: from a point to what it costs there."""
    import torch

    from attention_rhythm.models import load_model
    from attention_rhythm.signals.reading import SignalConfig, attention_signals
    from training.actors.attn import fused_pass

    model, _ = load_model(DEFAULT_MODEL)
    every = list(model.model.layers)
    config = SignalConfig()

    @torch.inference_mode()
    def answer(point: dict[str, int]) -> dict[str, float]:
        size, length = point["batch"], point["length"]
        model.model.layers = torch.nn.ModuleList(every[: point["layers"]])
        model.config.num_hidden_layers = point["layers"]
        ids = torch.randint(0, model.config.vocab_size, (size, length), generator=torch.Generator().manual_seed(0))
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        response = (torch.arange(length) >= length // 4).expand(size, -1)
        if name == "separate":
            return measured(lambda: attention_signals(model, ids, everywhere, response, config))[1]
        return measured(lambda: fused_pass(model, ids, everywhere, response, config, bf16=False))[1]

    answer(POINT | {"layers": len(every)})  # the first call is slower
    return answer, name


def exponent(x: list[float], y: list[float]) -> dict[str, Any]:
    """Slope of log y over log x, with its 95% t interval; None where some y is 0 (below what can be measured)."""
    if len(x) < 3 or min(y) <= 0:
        return {"exponent": None, "ci": [None, None]}
    fit = stats.linregress(np.log(x), np.log(y))
    half = fit.stderr * stats.t.ppf(0.975, len(x) - 2)
    return {"exponent": float(fit.slope), "ci": [float(fit.slope - half), float(fit.slope + half)]}


def fits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exponents of seconds and of memory, for each pass and axis."""
    found = []
    for name in dict.fromkeys(row["pass"] for row in rows):
        for axis in dict.fromkeys(row["axis"] for row in rows):
            own = [row for row in rows if (row["pass"], row["axis"]) == (name, axis)]
            for quantity in ("wall_seconds", "above_mib"):
                fit = exponent([row[axis] for row in own], [row[quantity] for row in own])
                found.append({"pass": name, "axis": axis, "quantity": quantity, **fit})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--longest", type=int, default=8192, metavar="N", help="longer sequences are left out")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each pass (default: 2)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=PASSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve))
        return 0

    rows = []
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(name, "benchmarks.growth", ["--serve", name], options.threads))
            for name in PASSES
        ]
        for axis, (fixed, values) in SERIES.items():
            for value in values:
                point = fixed | {axis: value}
                if point["length"] > options.longest:
                    continue
                costs: dict[str, list[dict[str, float]]] = {name: [] for name in PASSES}
                for repeat in range(options.repeats):
                    for worker in workers if repeat % 2 == 0 else workers[::-1]:
                        costs[worker.name].append(worker(point))
                for name, own in costs.items():
                    medians = {
                        key: statistics.median(cost[key] for cost in own)
                        for key in ("wall_seconds", "cpu_seconds", "above_mib")
                    }
                    rows.append({"pass": name, "axis": axis, **point, **medians})
                    print(f"{axis} {value} {name}: {medians['wall_seconds']:.2f} s, {medians['above_mib']:.0f} MiB",
                          flush=True)  # fmt: skip
    found = fits(rows)
    (memory,) = (f for f in found if (f["pass"], f["axis"], f["quantity"]) == ("separate", "length", "above_mib"))
    claims = [make_claim("memory_exponent_of_length", memory["exponent"], "within", list(BOUND))]
    settings = {"model": DEFAULT_MODEL, "repeats": options.repeats, "threads": options.threads}
    write(options.output, {"settings": settings, "rows": rows, "fits": found, "claims": claims})
    for fit in found:
        if fit["exponent"] is not None:
            low, high = fit["ci"]
            print(f"{fit['pass']} {fit['quantity']} ~ {fit['axis']}^{fit['exponent']:.2f} [{low:.2f}, {high:.2f}]")
    report(options.output, claims)
    return 0


if __name__ == "__main__":
    run(main)
