"""How long PyTorch's threads should spin before they sleep, on an idle and on a busy machine.

    python -m benchmarks.threads [--rounds N] [--output FILE]

    default    some milliseconds, what GNU OpenMP does by itself
    passive    not at all (OMP_WAIT_POLICY=PASSIVE)
    short      10,000 turns, some tens of microseconds (GOMP_SPINCOUNT), what `attention_rhythm` sets

GNU OpenMP's threads wait for each other by spinning. Where another process wants the core, a thread that spins keeps it
from the one that is waited for; one that sleeps takes long to wake. The same work is done under each policy, in
processes that take turns, first on an idle machine and then beside `--others` processes that never sleep. The work:
8 tokens of 16 sequences by the default model, where every token is hundreds of short parallel regions.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, serve
from pipeline.manifest import ROOT

POLICIES = {
    "default": {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": None},
    "short": {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": "10000"},
}
TOKENS, SEQUENCES = 8, 16


def prepare():
    """A worker: generates with the default model, and says how many tokens a second."""
    from attention_rhythm.generation import HFGenerator, SamplingConfig
    from attention_rhythm.models import DEFAULT_MODEL, load_model

    generator = HFGenerator(*load_model(DEFAULT_MODEL))
    prompt = [generator.tokenizer("Natalia sold clips to 48 of her friends.")["input_ids"]]

    def answer(_: object) -> float:
        started = time.perf_counter()
        generator.generate(prompt, SamplingConfig(TOKENS, samples=SEQUENCES, ignore_eos=True))
        return TOKENS * SEQUENCES / (time.perf_counter() - started)

    answer(None)  # warm
    return answer, {}


def spin() -> None:
    """A process that never sleeps."""
    while True:
        pass


def measure(others: int, rounds: int) -> dict[str, list[float]]:
    """Tokens a second of each policy, beside `others` processes that never sleep."""
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(others)]
    for process in busy:
        process.start()
    workers = {
        name: Worker(name, "benchmarks.threads", ["--worker"], threads=2, environment=policy)
        for name, policy in POLICIES.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for _ in range(rounds):
            for name, worker in workers.items():
                rates[name].append(worker(None))
    finally:
        for worker in workers.values():
            worker.__exit__()
        for process in busy:
            process.kill()
    return rates


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both conditions and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", type=int, default=2, help="processes that never sleep, in the busy condition")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "threads.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        serve(prepare)
        return 0
    rates = {"idle": measure(0, options.rounds), "busy": measure(options.others, options.rounds)}
    medians = {condition: {p: statistics.median(r) for p, r in own.items()} for condition, own in rates.items()}
    claims = [
        make_claim(f"{condition}: short / {other}, tokens per second", own["short"] / own[other], ">=", bound)
        for condition, own in medians.items()
        for other, bound in (("default", 1.2), ("passive", 1.0))
    ]
    settings = {"rounds": options.rounds, "others": options.others, "tokens": TOKENS, "sequences": SEQUENCES}
    write(options.output, {"settings": settings, "tokens_per_second": rates, "medians": medians, "claims": claims})
    report(options.output, claims)
    print(medians, file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
