"""Speed of the perturbation study's decoding: all candidates in one batch against one `generate` call a candidate.

    .venv/bin/python -m benchmarks.perturbation [--responses N] [--repeats N] [--threads N]

    batched    analysis.perturbation's way: the candidates of several responses are one batch, those of one response
               share its keys and values, and finished sequences leave
    generate   transformers' `generate` on prompt + response up to the position + candidate, one after the other

The greedy answers of results/cpu to its first problems; positions by FAI and candidates by likelihood as in the study
(profiles/cpu.toml); every continuation may become as long as the original's. SmolLM2-135M, float32. Each side is a
process of its own; they take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_rhythm.files import read_jsonl
from attention_rhythm.models import DEFAULT_MODEL
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, measured, serve
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "perturbation.json"
TARGET = 3.0  # times the candidates per second of `generate`


@dataclass(frozen=True)
class Candidate:
    """A token forced at a position of a response."""

    response: int
    visible: int  # tokens of prompt and response before the position
    token: int
    limit: int  # most tokens to follow


def plan(model: Any, responses: list[dict[str, Any]], stops: set[int]) -> list[Candidate]:
    """The candidates that the study would try, in its order."""
    import numpy as np

    from analysis.perturbation import candidates, choose_positions, read_response

    settings = tomllib.loads((ROOT / "profiles" / "cpu.toml").read_text(encoding="utf-8"))["perturbation"]
    found = []
    for number, response in enumerate(responses):
        prompt, ids = response["prompt_ids"], response["response_ids"]
        fai, logits = read_response(model, prompt, ids, tuple(settings["horizon"]))
        eligible = np.array([token not in stops for token in ids])
        eligible[-1:] = False
        groups = choose_positions(fai, settings["positions"], eligible)
        for position in (p for name in settings["groups"] for p in groups[name]):
            for token, _ in candidates(logits[position], ids[position], settings["candidates"], stops):
                limit = max(len(ids) - position - 1, 1)
                found.append(Candidate(number, len(prompt) + position, token, limit))
    return found


def batched(model: Any, texts: list[list[int]], chosen: list[Candidate], stops: set[int]) -> list[list[int]]:
    from attention_rhythm.generation.hf import continue_rows

    columns = zip(*((c.response, c.visible, c.token, c.limit) for c in chosen), strict=True)
    rows, _ = continue_rows(model, texts, *map(list, columns), stops, lambda logits, _rows, _step: logits.argmax(-1))
    return rows


def generate(model: Any, texts: list[list[int]], chosen: list[Candidate], stops: set[int]) -> list[list[int]]:
    import torch

    rows = []
    for c in chosen:
        ids = torch.tensor([[*texts[c.response][: c.visible], c.token]])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=c.limit,
            do_sample=False,
            eos_token_id=sorted(stops),
            pad_token_id=min(stops),
        )
        rows.append(out[0, ids.shape[1] :].tolist())
    return rows


SIDES = {"batched": batched, "generate": generate}


def prepare(side: str, count: int) -> tuple[Callable[[int | None], dict[str, Any]], dict[str, int]]:
    """A side as a worker: from how many candidates (None: all) to continuations with what they cost."""
    import torch

    from attention_rhythm.generation.hf import stop_token_ids
    from attention_rhythm.models import load_model

    model, tokenizer = load_model(DEFAULT_MODEL)
    stops = stop_token_ids(model.generation_config, tokenizer)
    greedy = [row for row in read_jsonl(ROOT / "results" / "cpu" / "responses.jsonl") if row["kind"] == "greedy"]
    responses = greedy[:count]
    texts = [row["prompt_ids"] + row["response_ids"] for row in responses]
    chosen = plan(model, responses, stops)

    @torch.inference_mode()
    def answer(limit: int | None) -> dict[str, Any]:
        rows, cost = measured(lambda: SIDES[side](model, texts, chosen[:limit], stops))
        return {"rows": rows, **cost}

    return answer, {"candidates": len(chosen)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perturbation", description=__doc__.split("\n")[0])
    parser.add_argument("--responses", type=int, default=8, metavar="N", help="perturbed at once (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each side (default: 2)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve, options.responses))
        return 0

    arguments = ["--responses", str(options.responses), "--serve"]
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(side, "benchmarks.perturbation", [*arguments, side], options.threads))
            for side in SIDES
        ]
        count = workers[0].about["candidates"]
        for worker in workers:
            worker(1)  # the first call is slower
        for repeat in range(options.repeats):
            for worker in workers if repeat % 2 == 0 else workers[::-1]:
                results[worker.name].append(worker(None))
                speed = count / results[worker.name][-1]["wall_seconds"]
                print(f"{repeat + 1}/{options.repeats} {worker.name}: {speed:.2f} candidates/s", flush=True)

    rows = {side: own[0]["rows"] for side, own in results.items()}
    sides = {
        side: {
            "candidates_per_second": count / statistics.median(r["wall_seconds"] for r in own),
            "tokens": sum(map(len, rows[side])),
            "peak_mib": max(r["peak_mib"] for r in own),
            "rounds": [r["wall_seconds"] for r in own],
        }
        for side, own in results.items()
    }
    ratio = statistics.median(b / a for a, b in zip(*(sides[side]["rounds"] for side in SIDES), strict=True))
    equal = sum(a == b for a, b in zip(*rows.values(), strict=True))
    claims = [make_claim("batched_of_generate", ratio, ">=", TARGET)]
    settings = {"model": DEFAULT_MODEL, "candidates": count}
    settings |= {key: getattr(options, key) for key in ("responses", "repeats", "threads")}
    write(options.output, {"settings": settings, "sides": sides, "equal_continuations": equal, "claims": claims})
    print(f"{equal} of {count} continuations are equal")
    report(options.output, claims)
    return 0


if __name__ == "__main__":
    run(main)
