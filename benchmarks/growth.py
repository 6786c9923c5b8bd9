"""How time and memory of the signals grow: with the length, the batch and the depth of the model.

    .venv/bin/python -m benchmarks.growth [--repeats N] [--threads N]

    separate   the streaming pass that ends after the last of its five layers
    fused      the old-log-prob pass with the signals recorded inside it
    eager      N x N maps of all layers, and the equations literally; not run where they would not fit

Random sequences, the last three quarters of each the response; SmolLM2-135M, float32, cut to its first layers for the
depth. One quantity varies and the others stay: N = 512 to 16384 at batch 1 (the model was made for 8192; what it costs
does not depend on that); batch 1 to 8 at N = 512; 6 to 30 layers at N = 1024. An exponent is the slope of the
logarithms (least squares) with its 95% interval. Memory is the peak above the weights; memory for each token is the
slope of the line through it over the lengths, so that what does not grow is not in it. `python -m figures.fig_growth`
draws the result.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from attention_rhythm.models import DEFAULT_MODEL
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, available_gib, measured, serve
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
PASSES = ("separate", "fused", "eager")
POINT = {"length": 512, "batch": 1, "layers": 30}
SERIES = {  # axis: what stays, and the values
    "length": (POINT, (512, 1024, 2048, 4096, 8192, 16384)),
    "batch": (POINT, (1, 2, 4, 8)),
    "layers": (POINT | {"length": 1024}, (6, 12, 18, 24, 30)),
}
BOUND = (0.9, 1.1)  # of the exponent of memory in the length
BYTES_OF_TOKEN = 12  # times the hidden size: bound of what the separate pass needs for each token
HEADS, READ = 9, 5  # of SmolLM2, and layers that are read, to tell beforehand what eager maps would need
SPARE_GIB = 2.0  # that stay free, so that nothing is swapped


def needed_gib(name: str, point: dict[str, int]) -> float:
    """What a pass holds in maps, in GiB; 0 where there are none.

    Sequences are read one by one: the maps of all layers of one, twice those that are read (float32 and checked), and
    those that are read of every sequence.
    """
    if name != "eager":
        return 0.0
    maps = point["layers"] + READ * (2 + point["batch"])
    return HEADS * point["length"] ** 2 * 4 * maps / 2**30


def shapes_of_token(config: Any) -> int:
    """What the separate pass over a long sequence has to hold of each token, in bytes: the formula of docs/method.md.

    A hidden state, the keys and values of one layer, the rotary tables, and WAAD and FAI of each head that is read.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 4 * (config.hidden_size + 2 * config.num_key_value_heads * size + 2 * size) + 8 * READ * heads


def prepare(name: str) -> tuple[Callable[[dict[str, int]], dict[str, float]], dict[str, int]]:
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
        if name == "fused":
            return measured(lambda: fused_pass(model, ids, everywhere, response, config, bf16=False))[1]
        method = {"separate": "streaming", "eager": "dense"}[name]
        return measured(lambda: attention_signals(model, ids, everywhere, response, config, method=method))[1]

    answer(POINT | {"layers": len(every)})  # the first call is slower
    return answer, {"hidden_size": model.config.hidden_size, "shapes_of_token": shapes_of_token(model.config)}


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
    """Of the least-squares line through three points or more, with its 95% t interval."""
    fit = stats.linregress(x, y)
    half = fit.stderr * stats.t.ppf(0.975, len(x) - 2)
    return float(fit.slope), [float(fit.slope - half), float(fit.slope + half)]


def exponent(x: list[float], y: list[float]) -> dict[str, Any]:
    """Slope of log y over log x, with its 95% t interval; None where some y is 0 (below what can be measured)."""
    if len(x) < 3 or min(y) <= 0:
        return {"exponent": None, "ci": [None, None]}
    found, interval = slope(np.log(x), np.log(y))
    return {"exponent": found, "ci": interval}


def bytes_of_token(rows: list[dict[str, Any]], name: str = "separate") -> tuple[float, list[float]]:
    """By how much the memory of a pass grows with each token, in bytes: a slope over the lengths, and its interval."""
    own = [row for row in rows if (row["pass"], row["axis"]) == (name, "length")]
    return slope([row["length"] for row in own], [row["above_mib"] * 2**20 for row in own])


def claims(rows: list[dict[str, Any]], found: list[dict[str, Any]], hidden_size: int) -> list[dict[str, Any]]:
    """What is claimed of the separate pass over the lengths; without three lengths nothing is."""
    if sum((row["pass"], row["axis"]) == ("separate", "length") for row in rows) < 3:
        return []
    (memory,) = (f for f in found if (f["pass"], f["axis"], f["quantity"]) == ("separate", "length", "above_mib"))
    each, interval = bytes_of_token(rows)
    return [
        make_claim("memory_of_token", each, "<=", BYTES_OF_TOKEN * hidden_size, ci=interval),
        make_claim("memory_exponent_of_length", memory["exponent"], "within", list(BOUND)),
    ]


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
    parser.add_argument("--longest", type=int, default=16384, metavar="N", help="longer sequences are left out")
    parser.add_argument("--passes", default=",".join(PASSES), metavar="P,P")
    parser.add_argument("--axes", default=",".join(SERIES), metavar="A,A")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each pass (default: 2)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=PASSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve))
        return 0

    rows, not_run = [], []
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(name, "benchmarks.growth", ["--serve", name], options.threads))
            for name in options.passes.split(",")
        ]
        about = workers[0].about
        for axis in options.axes.split(","):
            fixed, values = SERIES[axis]
            for value in values:
                point = fixed | {axis: value}
                if point["length"] > options.longest:
                    continue
                fitting = []
                for worker in workers:
                    needed, free = needed_gib(worker.name, point), available_gib() - SPARE_GIB
                    if needed < free:
                        fitting.append(worker)
                        continue
                    about = {"needed_gib": needed, "free_gib": free}
                    not_run.append({"pass": worker.name, "axis": axis, **point, **about})
                    print(f"{axis} {value} {worker.name}: needs {needed:.1f} GiB of {free:.1f}: not run", flush=True)
                costs: dict[str, list[dict[str, float]]] = {worker.name: [] for worker in fitting}
                for repeat in range(options.repeats):
                    for worker in fitting if repeat % 2 == 0 else fitting[::-1]:
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
    found_claims = claims(rows, found, about["hidden_size"])
    settings = {"model": DEFAULT_MODEL, "repeats": options.repeats, "threads": options.threads}
    settings |= about
    result = {"settings": settings, "rows": rows, "not_run": not_run, "fits": found, "claims": found_claims}
    write(options.output, result)
    for fit in found:
        if fit["exponent"] is not None:
            low, high = fit["ci"]
            print(f"{fit['pass']} {fit['quantity']} ~ {fit['axis']}^{fit['exponent']:.2f} [{low:.2f}, {high:.2f}]")
    report(options.output, found_claims)
    return 0


if __name__ == "__main__":
    run(main)
