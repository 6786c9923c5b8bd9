"""Cost of the attention signals: time and memory against what a user would run instead, by sequence length.

    .venv/bin/python -m benchmarks.attention [--lengths 512,1024,...] [--repeats N] [--dtypes float32,bfloat16]

    signals   WAAD and FAI by the streaming pass: five layers of the middle third, stops after the last of them
    forward   transformers' full forward pass with fused attention and all logits
    eager     the same with eager attention and output_attentions=True: every N x N map is kept
    hooks     eager attention, the maps of the five layers taken by hooks
    logp      the old-log-prob pass of an RL step (entropy and log-probabilities, logits in chunks)
    fused     the same pass with the signals recorded inside it

One random sequence of N tokens, the last three quarters of it the response; SmolLM2-135M. Each method is a process of
its own, for its memory to be its own; they take turns. Memory is the peak above the process's size just before the
call, when the weights are loaded. A method that would need more memory than the machine has free has no repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evaluation.artifacts import ReproError, write_json
from evaluation.manifest import ROOT, environment, shown

RESULTS = ROOT / "benchmarks" / "results" / "attention.json"
LAYERS, HEADS = 30, 9  # of SmolLM2, to tell beforehand what eager attention would need


# ------------------------------------------------------------------------------------------ the methods


def methods(model: Any) -> dict[str, Callable[[Any, Any], None]]:
    """name -> function of (ids (1, N), response mask (1, N))."""
    import torch

    from analysis.heads import select_layers
    from analysis.signals import SignalConfig, attention_signals
    from training.actors.attn import AttnActor
    from training.actors.infer import Rollout

    config = SignalConfig()
    sampled = select_layers(model.config.num_hidden_layers, config.layers, config.num_layers)

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
    }


NAMES = ("signals", "forward", "eager", "hooks", "logp", "fused")


def needed_gib(name: str, length: int) -> float:
    """A lower bound of what a method has to hold at once, in GiB of float32; 0 where memory is no question."""
    one_map = HEADS * length * length * 4 / 2**30
    return {"eager": (LAYERS + 3) * one_map, "hooks": (5 + 3) * one_map}.get(name, 0.0)


# ---------------------------------------------------------------------------------------- the processes


def serve(name: str, dtype: str) -> None:
    """Be a method: a length a line on standard input, a measurement a line on standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    import torch

    from evaluation.models import DEFAULT_MODEL, load_model

    model, _ = load_model(DEFAULT_MODEL, dtype=dtype)
    run = methods(model)[name]
    print("ready", file=answers)
    for line in sys.stdin:
        length = int(line)
        ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
        response = torch.arange(length)[None] >= length // 4
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
        before = memory("VmRSS")
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            run(ids, response)
        result = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(result | {"peak_mib": memory("VmHWM") - before}), file=answers)


def memory(field: str) -> float:
    """A field of this process's status, in MiB (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) / 1024


def available_gib() -> float:
    """Memory that can be had without swapping, in GiB (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 2**20


class Method:
    """A method in a process of its own."""

    def __init__(self, name: str, dtype: str, threads: int):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.attention", "--serve", name, "--dtypes", dtype],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __call__(self, length: int) -> dict[str, float]:
        self.process.stdin.write(f"{length}\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise ReproError(f"method {self.name}: its process ended with status {self.process.wait()}; see above")
        return line

    def __enter__(self) -> Method:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()


# -------------------------------------------------------------------------------------- the measurement


def measure(dtype: str, lengths: list[int], repeats: int, threads: int) -> list[dict[str, Any]]:
    """One row a length and method: medians over the repetitions, which the methods take in turns."""
    rows = []
    with ExitStack() as stack:
        running = [stack.enter_context(Method(name, dtype, threads)) for name in NAMES]
        for method in running:
            method(256)  # the first call is slower
        for length in lengths:
            free = available_gib()
            results: dict[str, list[dict]] = {name: [] for name in NAMES}
            for _ in range(repeats):
                for method in running:
                    if needed_gib(method.name, length) < free:
                        results[method.name].append(method(length))
            for name, own in results.items():
                row: dict[str, Any] = {"dtype": dtype, "length": length, "method": name, "repeats": len(own)}
                if own:
                    row |= {key: statistics.median(r[key] for r in own) for key in own[0]}
                    print(f"{dtype} {length} {name}: {row['seconds']:.2f} s, {row['peak_mib']:.0f} MiB", flush=True)
                rows.append(row)
    return rows


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is claimed of each length, as a ratio of two methods or a size, with its bound and whether it holds."""
    by = {(row["dtype"], row["length"], row["method"]): row for row in rows if row["repeats"]}
    found = []
    for dtype, length in dict.fromkeys((row["dtype"], row["length"]) for row in rows):

        def ratio(above: str, below: str, dtype=dtype, length=length) -> float | None:
            pair = [by.get((dtype, length, name)) for name in (above, below)]
            return pair[0]["seconds"] / pair[1]["seconds"] if all(pair) else None

        values = {
            "signals_of_forward": (ratio("signals", "forward"), "<=", 0.65 if length >= 2048 else None),
            "eager_of_signals": (ratio("eager", "signals"), ">=", 5.0),
            "hooks_of_signals": (ratio("hooks", "signals"), ">=", None),
            "fused_of_logp": (ratio("fused", "logp"), "<=", 1.03 if length >= 1024 else None),
            "signals_mib": (by[dtype, length, "signals"]["peak_mib"], "<=", 250.0 if length == 8192 else None),
        }
        for name, (value, sense, bound) in values.items():
            if value is None:
                continue
            held = None if bound is None else (value <= bound if sense == "<=" else value >= bound)
            found.append(
                {"claim": name, "dtype": dtype, "length": length, "value": value, "bound": bound, "held": held}
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192", metavar="N,N")
    parser.add_argument("--dtypes", default="float32,bfloat16", metavar="D,D")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each method (default: 2)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.dtypes)
        return 0
    lengths = [int(length) for length in options.lengths.split(",")]
    rows = []
    for dtype in options.dtypes.split(","):
        rows += measure(dtype, lengths, options.repeats, options.threads)
    found = claims(rows)
    settings = {"model": "smollm2-135m-instruct", "repeats": options.repeats, "threads": options.threads}
    record = {"settings": settings, "rows": rows, "claims": found, "load_average": os.getloadavg()}
    write_json(options.output, record | {"environment": environment()})
    for claim in found:
        if claim["bound"] is not None:
            held = "held" if claim["held"] else "NOT held"
            print(f"{claim['claim']} {claim['dtype']} {claim['length']}: {claim['value']:.2f}, "
                  f"bound {claim['bound']:g}: {held}")  # fmt: skip
    print(f"written to {shown(options.output)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
