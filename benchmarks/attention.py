"""Cost of the attention signals: time and memory against what a user would run instead, by sequence length.

    .venv/bin/python -m benchmarks.attention [--lengths 512,1024,...] [--dtypes float32,bfloat16] [--repeats N]
                                             [--before CHECKOUT]

    signals   WAAD and FAI by the streaming pass: five layers of the middle third, stops after the last of them
    forward   transformers' full forward pass with fused attention and all logits
    eager     the same with eager attention and output_attentions=True: every N x N map is kept
    hooks     eager attention, the maps of the five layers taken by hooks
    logp      the old-log-prob pass of an RL step (entropy and log-probabilities, logits in chunks)
    fused     the same pass with the signals recorded inside it
    windowed  `signals` of the same weights with sliding windows of 128 tokens in every layer (a Mistral)

CHECKOUT is a folder with an earlier version of this repository: its `signals` and `fused` take turns with ours.

One random sequence of N tokens, the last three quarters of it the response; SmolLM2-135M. Each method is a process of
its own; they take turns, and a ratio is the median over the rounds of the ratio within a round. Memory is the peak
above the process's size just before the call, when the weights are loaded. A method that would need more memory than
the machine has free is not run. Results are written after every length, and replace those of the same dtype and length:
a long measurement can be done in parts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attention_rhythm.files import read_json
from attention_rhythm.models import DEFAULT_MODEL
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, available_gib, measured, serve
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "attention.json"
LAYERS, HEADS = 30, 9  # of SmolLM2, to tell beforehand what eager attention would need
WINDOW = 128  # tokens


# ------------------------------------------------------------------------------------------ the methods


def methods(model: Any) -> dict[str, Callable[[Any, Any], None]]:
    """name -> function of (ids (1, N), response mask (1, N))."""
    import torch

    from attention_rhythm.signals.architecture import layers_to_read
    from attention_rhythm.signals.reading import SignalConfig, attention_signals
    from training.actors.attn import AttnActor
    from training.actors.infer import Rollout

    config = SignalConfig()
    sampled = layers_to_read(model, config.layers, config.num_layers)

    def with_attention(name: str, call: Callable[[], Any]) -> None:
        before = model.config._attn_implementation
        model.config._attn_implementation = name
        try:
            call()
        finally:
            model.config._attn_implementation = before

    def signals(ids, response):
        attention_signals(model, ids, torch.ones_like(ids, dtype=torch.bool), response, config)

    def forward(ids, response):
        model(input_ids=ids, use_cache=False)

    def eager(ids, response):
        with_attention("eager", lambda: model(input_ids=ids, use_cache=False, output_attentions=True))

    def hooks(ids, response):
        kept = []
        attentions = [model.model.layers[layer].self_attn for layer in sampled]
        handles = [m.register_forward_hook(lambda _m, _i, out: kept.append(out[1])) for m in attentions]
        try:
            with_attention("eager", lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1))
        finally:
            for handle in handles:
                handle.remove()
        assert len(kept) == len(sampled)

    actor = AttnActor(model, config, "fused", batch=1)

    def read(ids, response, with_signals):
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        unused = torch.zeros(ids.shape), ("",), torch.ones(1, dtype=torch.bool)
        actor.read(Rollout(ids, everywhere, response, *unused), signals=with_signals)

    return {
        "signals": signals,
        "forward": forward,
        "eager": eager,
        "hooks": hooks,
        "logp": lambda ids, response: read(ids, response, False),
        "fused": lambda ids, response: read(ids, response, True),
        "windowed": signals,
    }


def with_windows(model: Any) -> Any:
    """The same weights as a Mistral, whose layers see the last WINDOW tokens."""
    from transformers import MistralConfig, MistralForCausalLM

    settings = {key: value for key, value in model.config.to_dict().items() if key != "model_type"}
    config = MistralConfig(**settings | {"sliding_window": WINDOW})
    windowed = MistralForCausalLM(config).to(model.dtype)
    windowed.load_state_dict(model.state_dict())
    return windowed.eval()


NAMES = ("signals", "forward", "eager", "hooks", "logp", "fused", "windowed")
OF_BEFORE = ("signals", "fused")
BYTES = {"float32": 4, "bfloat16": 2}


def needed_gib(name: str, length: int, dtype: str) -> float:
    """What a method at least has to hold at once, in GiB; 0 where memory is no question.

    The maps that are kept, and three of one layer in float32 while it is at work.
    """
    kept = {"eager": LAYERS, "hooks": 5}.get(name)
    return 0.0 if kept is None else HEADS * length * length * (kept * BYTES[dtype] + 3 * 4) / 2**30


def prepare(name: str, dtype: str) -> tuple[Callable[[int], dict[str, float]], str]:
    """A method as a worker: from a length to what it costs."""
    import torch

    from attention_rhythm.models import load_model

    model, _ = load_model(DEFAULT_MODEL, dtype=dtype)
    run = methods(with_windows(model) if name == "windowed" else model)[name]

    memory: dict[int, float] = {}  # length -> MiB

    @torch.inference_mode()
    def answer(length: int) -> dict[str, float]:
        ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
        response = torch.arange(length)[None] >= length // 4
        if length not in memory:
            memory[length] = measured(lambda: run(ids, response))[1]["above_mib"]
        wall, cpu = time.perf_counter(), time.process_time()
        run(ids, response)
        seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        return {**seconds, "above_mib": memory[length]}

    answer(256)  # the first call is slower
    return answer, name


# -------------------------------------------------------------------------------------- the measurement


def measure(workers: list[Worker], dtype: str, length: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each method that fits the memory: the median over the rounds, and the seconds of each round."""
    free = available_gib()
    fitting = [worker for worker in workers if needed_gib(worker.name, length, dtype) < free]
    costs: dict[str, list[dict[str, float]]] = {worker.name: [] for worker in fitting}
    for repeat in range(repeats):
        for worker in fitting if repeat % 2 == 0 else fitting[::-1]:
            costs[worker.name].append(worker(length))
    rows = []
    for name, own in costs.items():
        medians = {key: statistics.median(cost[key] for cost in own) for key in ("wall_seconds", "cpu_seconds")}
        peak = max(cost["above_mib"] for cost in own)
        rows.append({"dtype": dtype, "length": length, "method": name, **medians, "above_weights_mib": peak})
        rows[-1]["rounds"] = [cost["wall_seconds"] for cost in own]
        print(f"{dtype} {length} {name}: {medians['wall_seconds']:.2f} s, {peak:.0f} MiB", flush=True)
    return rows


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is claimed of each length, as a ratio of two methods or a size, with its bound and whether it holds."""
    by = {(row["dtype"], row["length"], row["method"]): row for row in rows}
    found = []
    for dtype, length in dict.fromkeys((row["dtype"], row["length"]) for row in rows):

        def ratio(above: str, below: str, dtype=dtype, length=length) -> float | None:
            pair = [by.get((dtype, length, name)) for name in (above, below)]
            if not all(pair):
                return None
            return statistics.median(a / b for a, b in zip(*(row["rounds"] for row in pair), strict=True))

        values = {
            "signals_of_forward": (ratio("signals", "forward"), "<=", 0.65 if length >= 2048 else None),
            "eager_of_signals": (ratio("eager", "signals"), ">=", 5.0),
            "hooks_of_signals": (ratio("hooks", "signals"), ">=", None),
            "fused_of_logp": (ratio("fused", "logp"), "<=", 1.03 if length >= 1024 else None),
            "signals_of_before": (ratio("signals", "signals before"), "<=", 1.01),
            "fused_of_before": (ratio("fused", "fused before"), "<=", 1.01),
            "signals_of_windowed": (ratio("signals", "windowed"), ">=", 1.3 if length == 8192 else None),
            "signals_mib": (by[dtype, length, "signals"]["above_weights_mib"], "<=", 250 if length == 8192 else None),
        }
        for name, (value, sense, bound) in values.items():
            if value is None:
                continue
            found.append(make_claim(name, value, sense, bound, dtype=dtype, length=length))
    return found


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`new` rows, and those of `old` whose dtype and length were not measured again, in order."""
    again = {(row["dtype"], row["length"]) for row in new}
    kept = [row for row in old if (row["dtype"], row["length"]) not in again]
    names = [*NAMES, *(f"{name} before" for name in OF_BEFORE)]
    return sorted(kept + new, key=lambda row: (-BYTES[row["dtype"]], row["length"], names.index(row["method"])))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192", metavar="N,N")
    parser.add_argument("--dtypes", default="float32,bfloat16", metavar="D,D")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each method (default: 2)")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version, to compare with")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve, options.dtypes))
        return 0
    rows = read_json(options.output)["rows"] if options.output.exists() else []
    settings = {"model": DEFAULT_MODEL, "threads": options.threads}
    for dtype in options.dtypes.split(","):
        with ExitStack() as stack:
            arguments = ["--dtypes", dtype, "--serve"]
            sides = [(name, name, ROOT) for name in NAMES]
            if options.before:
                sides += [(f"{name} before", name, options.before) for name in OF_BEFORE]
            workers = [
                stack.enter_context(
                    Worker(shown, "benchmarks.attention", [*arguments, name], options.threads, folder=folder)
                )
                for shown, name, folder in sides
            ]
            for length in map(int, options.lengths.split(",")):
                rows = merged(rows, measure(workers, dtype, length, options.repeats))
                write(options.output, {"settings": settings, "rows": rows, "claims": claims(rows)})
    report(options.output, claims(rows))
    return 0


if __name__ == "__main__":
    run(main)
