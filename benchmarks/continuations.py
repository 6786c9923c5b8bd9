"""Speed of sampling many continuations of many prefixes of a response: what token values and perturbations are made of.

    DATA_DIR=FOLDER .venv/bin/python -m benchmarks.continuations [--vllm-python PYTHON] [--rounds N] [--threads N]

    shared            `HFGenerator`: the rows of a response share its keys and values, all responses are one batch
    vllm              vLLM with prefix caching, all prefixes at once
    generate          transformers' `generate` as a user would write it: one prefix after the other, K samples of each
    generate_batched  the same with all prefixes of one response in a call, padded on the left

Two models. Qwen2.5-Coder-0.5B: responses of up to 200 tokens to GSM8K, 16 continuations at each of 8 positions, in
bfloat16. The embedded policy: responses of up to 96 tokens to training puzzles, 32 continuations at
every fourth position. Temperature 1, until a stop token or until the response has 256 tokens (the policy's: 96).
Responses are made once, by `HFGenerator`; every side gets the same prefixes, and another seed in each round.

Speed is generated tokens, the stop token included, per second; what `generate` makes behind a stop token or a limit
does not count. Of each side the faster number format is compared. Sides are processes of their own that take turns;
PYTHON is that of .venv-engines. All sides sample the same law: the mean of a continuation's tokens, and of its
different tokens, stands beside its standard error.

`generate` is given the last hidden states as one piece of memory. Without that PyTorch 2.13 copies the output matrix
for every row of a prompt's pass in bfloat16: seconds for each call, and 35 GB for 128 rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attention_rhythm.generation import base
from attention_rhythm.generation.base import Generator
from attention_rhythm.models import model_name
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, measured, serve
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "continuations.json"
POLICY = ROOT / "training" / "checkpoints" / "countdown-policy"
OURS, PLAIN = ("shared", "vllm"), "generate"
TARGET = 3.0  # times the tokens per second of `generate`
ONE_BY_ONE = "the faster of shared prefixes and vLLM / one `generate` call a prefix"
TOGETHER = "the faster of shared prefixes and vLLM / one `generate` call a response"
TITLES = {"coder": "Qwen2.5-Coder-0.5B", "policy": "1.2M policy"}
BLOCK = 32  # tokens of a block of vLLM's cache, which shares whole blocks; its default is 128

Rows = list[list[int]]


@dataclass(frozen=True)
class Workload:
    """What is sampled from a model."""

    problems: str  # gsm8k | puzzles
    responses: int
    length: int  # most tokens of a response
    total: int  # most tokens of a response and its continuation together
    positions: int  # of each response, evenly placed; 0: every `step` tokens
    step: int
    samples: int  # continuations of each prefix
    rows: int  # most rows of one batch of `shared`
    context: int  # tokens of prompt, response and continuation that vLLM makes room for
    dtypes: tuple[str, ...]


WORKLOADS = {
    "coder": Workload("gsm8k", 2, 200, 256, 8, 0, 16, 512, 1024, ("bfloat16",)),
    "policy": Workload("puzzles", 32, 96, 96, 0, 4, 32, 1024, 128, ("float32",)),
}


class Prefix(NamedTuple):
    """The beginning of a text, to be continued."""

    text: int  # which one
    tokens: int  # prompt and response up to the position
    limit: int  # most tokens to follow


# -------------------------------------------------------------------------------------------- the work


def positions(length: int, count: int, step: int) -> list[int]:
    """Places in a response of `length` tokens: `count` of them, evenly from its first token on, or every `step`-th."""
    return sorted({i * length // count for i in range(count)}) if count else list(range(0, length, step))


def prefixes(prompts: Sequence[int], responses: Sequence[int], work: Workload) -> list[Prefix]:
    """Of texts with that many tokens of prompt and of response, text by text."""
    return [
        Prefix(text, prompt + place, work.total - place)
        for text, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        for place in positions(response, work.positions, work.step)
    ]


def batches(chosen: Sequence[Prefix], most: int) -> Iterator[list[Prefix]]:
    """At most `most` prefixes at once."""
    for start in range(0, len(chosen), most):
        yield list(chosen[start : start + most])


def cut(row: Sequence[int], limit: int, stops: set[int]) -> list[int]:
    """The tokens up to the first stop token, which is kept, and at most `limit`."""
    end = next((place + 1 for place, token in enumerate(row[:limit]) if token in stops), limit)
    return list(row[:end])


def sample_responses(spec: str, work: Workload) -> tuple[Rows, list[int], str]:
    """Texts of prompt and sampled response, tokens of each prompt, and where the problems come from."""
    from attention_rhythm.generation.base import SamplingConfig
    from attention_rhythm.generation.hf import HFGenerator
    from attention_rhythm.models import load_model
    from attention_rhythm.tasks.problems import load_problems
    from attention_rhythm.tasks.prompts import build_prompt_ids
    from attention_rhythm.tasks.puzzles import load_puzzles

    model, tokenizer = load_model(spec, dtype=work.dtypes[0])
    if work.problems == "puzzles":
        problems = load_puzzles("train", work.responses)
    else:
        problems = load_problems(work.problems, limit=work.responses)
    prompts = [build_prompt_ids(problem, tokenizer) for problem in problems]
    made = HFGenerator(model, tokenizer).generate(prompts, SamplingConfig(max_new_tokens=work.length))
    texts = [prompt + completion.token_ids for prompt, completion in zip(prompts, made, strict=True)]
    source = problems[0].metadata["source"]
    return texts, [len(prompt) for prompt in prompts], source if isinstance(source, str) else source["source"]


# ------------------------------------------------------------------------------------------- the sides

# (texts, prefixes, continuations of each, seed) -> continuations, prefix by prefix
Sample = Callable[[Rows, list[Prefix], int, int], Rows]


def ours(generator: Generator, rows: int) -> Sample:
    """`continue_prefixes` of a generator. rows: most rows of one batch."""

    def sample(texts: Rows, chosen: list[Prefix], samples: int, seed: int) -> Rows:
        found = []
        for few in batches(chosen, max(rows // samples, 1)):
            prefixes = [base.Prefix(p.text, p.tokens - 1, texts[p.text][p.tokens - 1], p.limit) for p in few]
            for rows_of_one in generator.continue_prefixes(texts, prefixes, samples, seed):
                found += rows_of_one
        return found

    return sample


def generate(model: Any, stops: set[int]) -> Sample:
    _one_piece(model)

    def sample(texts: Rows, chosen: list[Prefix], samples: int, seed: int) -> Rows:
        found = []
        for number, prefix in enumerate(chosen):
            found += _generate(model, texts, [prefix], samples, stops, seed=seed + number)
        return found

    return sample


def generate_batched(model: Any, stops: set[int]) -> Sample:
    _one_piece(model)

    def sample(texts: Rows, chosen: list[Prefix], samples: int, seed: int) -> Rows:
        found = []
        for text in dict.fromkeys(prefix.text for prefix in chosen):
            own = [prefix for prefix in chosen if prefix.text == text]
            found += _generate(model, texts, own, samples, stops, seed=seed + text)
        return found

    return sample


def _one_piece(model: Any) -> None:
    """Let the output matrix have its input as one piece of memory; no number changes."""
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def _generate(model: Any, texts: Rows, chosen: list[Prefix], samples: int, stops: set[int], seed: int) -> Rows:
    """One call of transformers' `generate`; what is behind a row's own limit is cut off."""
    import torch

    torch.manual_seed(seed)
    longest, pad = max(prefix.tokens for prefix in chosen), min(stops)
    ids = torch.full((len(chosen), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prefix in enumerate(chosen):
        ids[row, longest - prefix.tokens :] = torch.tensor(texts[prefix.text][: prefix.tokens])
        mask[row, longest - prefix.tokens :] = 1
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max(prefix.limit for prefix in chosen),
        num_return_sequences=samples,
        do_sample=True,
        temperature=1.0,
        top_k=0,  # the whole distribution: transformers would keep the 50 most likely tokens
        top_p=1.0,
        eos_token_id=sorted(stops),
        pad_token_id=pad,
    )
    limits = [prefix.limit for prefix in chosen for _ in range(samples)]
    return [cut(row, limit, stops) for row, limit in zip(out[:, longest:].tolist(), limits, strict=True)]


def vllm(spec: str, dtype: str, context: int) -> tuple[Sample, set[int]]:
    """All prefixes at once, with prefix caching, which nothing of the round before is left in."""
    from attention_rhythm.generation.vllm import VLLMGenerator

    generator = VLLMGenerator.load(
        spec, dtype=dtype, context=context, enable_prefix_caching=True, block_size=BLOCK, max_num_seqs=512
    )
    sample_all = ours(generator, sys.maxsize)

    def sample(texts: Rows, chosen: list[Prefix], samples: int, seed: int) -> Rows:
        generator.llm.reset_prefix_cache()
        return sample_all(texts, chosen, samples, seed)

    return sample, generator.stops


PLAIN_SIDES = {"generate": generate, "generate_batched": generate_batched}
SIDES = ("shared", "vllm", "generate", "generate_batched")


def prepare(
    side: str, spec: str, dtype: str, rows: int, context: int
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], str]:
    """A side as a worker: from prefixes to the lengths of their continuations, and what these cost."""
    import torch

    if side == "vllm":
        sample, stops = vllm(spec, dtype, context)
        from vllm import __version__ as version
    else:
        from transformers import __version__ as version

        from attention_rhythm.generation.hf import HFGenerator
        from attention_rhythm.models import load_model

        model, tokenizer = load_model(spec, dtype=dtype)
        generator = HFGenerator(model, tokenizer)
        stops = generator.stops
        sample = ours(generator, rows) if side == "shared" else PLAIN_SIDES[side](model, stops)

    @torch.inference_mode()
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        chosen = [Prefix(*prefix) for prefix in request["prefixes"]]
        found, cost = measured(lambda: sample(request["texts"], chosen, request["samples"], request["seed"]))
        assert len(found) == len(chosen) * request["samples"]
        ended = sum(row[-1] in stops for row in found)
        kinds = [len(set(row)) for row in found]
        return {"lengths": [len(row) for row in found], "kinds": kinds, "ended": ended, **cost}

    return answer, f"{'vllm' if side == 'vllm' else 'transformers'} {version}, torch {torch.__version__}"


# -------------------------------------------------------------------------------------- the measurement


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """Of values (prefixes, samples): their mean, and its standard error where the prefixes are given."""
    within = values.var(axis=1, ddof=1) / values.shape[1]  # (prefixes,)
    return {"mean": float(values.mean()), "error": float(np.sqrt(within.sum()) / len(values))}


def apart(one: dict[str, float], other: dict[str, float]) -> float | None:
    """Difference of two means in its standard errors; None where nothing varies."""
    error = float(np.hypot(one["error"], other["error"]))
    return (one["mean"] - other["mean"]) / error if error else None


def summary(rounds: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Of the answers of one side: speed, length and memory."""
    tokens = [sum(one["lengths"]) for one in rounds]
    speeds = [count / one["wall_seconds"] for count, one in zip(tokens, rounds, strict=True)]
    lengths, kinds = (
        np.concatenate([np.reshape(one[key], (-1, samples)) for one in rounds], axis=1) for key in ("lengths", "kinds")
    )
    return {
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_cpu_second": statistics.median(
            count / one["cpu_seconds"] for count, one in zip(tokens, rounds, strict=True)
        ),
        "rounds": speeds,
        "tokens": tokens,
        "length": mean_and_error(lengths),
        "different_tokens": mean_and_error(kinds),
        "ended": sum(one["ended"] for one in rounds) / lengths.size,  # by a stop token
        "peak_mib": max(one["peak_mib"] for one in rounds),
    }


def compare(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """From side and number format: the faster format of each side, the faster of ours, and its ratios to the others.

    Ratios are of tokens per second, medians over the rounds. `apart`: a side's means against those of `shared` in the
    same number format, in standard errors of the difference.
    """
    best = {side: max(by, key=lambda dtype: by[dtype]["tokens_per_second"]) for side, by in sides.items()}
    chosen = {side: sides[side][dtype] for side, dtype in best.items()}
    fastest = max((side for side in OURS if side in chosen), key=lambda side: chosen[side]["tokens_per_second"])
    ratios = {
        side: statistics.median(a / b for a, b in zip(chosen[fastest]["rounds"], own["rounds"], strict=True))
        for side, own in chosen.items()
        if side != fastest
    }
    differences = {
        f"{side} {dtype}": {key: apart(own[key], sides["shared"][dtype][key]) for key in ("length", "different_tokens")}
        for side, by in sides.items()
        for dtype, own in by.items()
        if side != "shared"
    }
    return {"dtype": best, "fastest": fastest, "ratios": ratios, "apart": differences}


def measure(name: str, spec: str, work: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """All sides on one model, in each number format."""
    texts, prompts, source = sample_responses(spec, work)
    responses = [len(text) - prompt for text, prompt in zip(texts, prompts, strict=True)]
    chosen = prefixes(prompts, responses, work)
    request = {"texts": texts, "prefixes": chosen, "samples": work.samples}
    short = {"texts": texts[:1], "prefixes": [Prefix(0, prompts[0], 4)], "samples": 2, "seed": 0}
    pythons = {side: sys.executable for side in SIDES if side not in options.without}
    if options.vllm_python:
        pythons["vllm"] = options.vllm_python
    else:
        pythons.pop("vllm", None)
    sides: dict[str, dict[str, Any]] = {side: {} for side in pythons}
    about: dict[str, str] = {}
    for dtype in work.dtypes:  # one after the other, or the weights would not all fit
        arguments = ["--model", spec, "--dtype", dtype, "--rows", str(work.rows), "--context", str(work.context)]
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
        with ExitStack() as stack:
            workers = []
            for side, python in pythons.items():
                threads = options.vllm_threads if side == "vllm" else options.threads
                settings = {"VLLM_CPU_KVCACHE_SPACE": "4"} if side == "vllm" else None  # GiB: room for all rows
                worker = Worker(
                    side, "benchmarks.continuations", [*arguments, "--serve", side], threads, python, settings
                )
                workers.append(stack.enter_context(worker))
                about[side] = worker.about
            for worker in workers:
                worker(short)  # the first call is slower
            for number in range(options.rounds):
                for worker in workers if number % 2 == 0 else workers[::-1]:
                    found = worker({**request, "seed": 1_000_000 * (number + 1)})
                    rounds[worker.name].append(found)
                    speed = sum(found["lengths"]) / found["wall_seconds"]
                    print(
                        f"{name} {dtype} {number + 1}/{options.rounds} {worker.name}: {speed:.0f} tokens/s", flush=True
                    )
        for side, own in rounds.items():
            sides[side][dtype] = summary(own, work.samples)
    settings = asdict(work) | {"model": model_name(spec), "source": source, "about": about}
    settings |= {"prompt_tokens": prompts, "response_tokens": responses, "prefixes": len(chosen)}
    return {"settings": settings, "sides": {side: sides.get(side, "not run") for side in SIDES}, **compare(sides)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.continuations", description=__doc__.split("\n")[0])
    parser.add_argument("--coder", default="qwen2.5-coder-0.5b-instruct-q4_k_m", metavar="MODEL", help="of GSM8K")
    parser.add_argument("--models", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), help="default: both")
    parser.add_argument("--responses", type=int, metavar="N", help="of each model (default: 2, of the policy 32)")
    parser.add_argument("--dtypes", nargs="+", choices=["bfloat16", "float32"], help="of both models")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each side (default: 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each side but vLLM (default: 2)")
    parser.add_argument("--vllm-python", type=Path, metavar="PYTHON", help="without it, vLLM is not run")
    parser.add_argument("--vllm-threads", type=int, default=2, metavar="N", help="of vLLM (default: 2)")
    parser.add_argument("--without", nargs="+", choices=SIDES[1:], default=[], help="sides that are not run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    for internal in ("--model", "--dtype", "--rows", "--context"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve, options.model, options.dtype, int(options.rows), int(options.context)))
        return 0

    settings = {key: getattr(options, key) for key in ("rounds", "threads", "vllm_threads")} | {"vllm_block": BLOCK}
    models, claims = {}, []
    specs = {"coder": options.coder, "policy": str(POLICY)}
    for name in options.models:
        wanted = {"responses": options.responses, "dtypes": options.dtypes and tuple(options.dtypes)}
        work = replace(WORKLOADS[name], **{key: value for key, value in wanted.items() if value})
        models[name] = found = measure(name, specs[name], work, options)
        claims += [
            make_claim(
                f"{TITLES[name]}: tokens of continuations per second, {about}", found["ratios"][side], ">=", bound
            )
            for side, about, bound in ((PLAIN, ONE_BY_ONE, TARGET), ("generate_batched", TOGETHER, None))
            if side in found["ratios"]
        ]
        write(options.output, {"settings": settings, "models": models, "claims": claims})  # the next takes long too
    report(options.output, claims)
    return 0


if __name__ == "__main__":
    run(main)
