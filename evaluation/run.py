"""Accuracy on benchmarks: problems, completions, grades, a table.

    python -m evaluation.run --model MODEL --tasks aime24,math500 --samples 16 --engine vllm

writes, below --out, completions.jsonl (one row a completion, with its grade), evaluation.json (accuracies with
intervals) and table.md. Killed, it goes on where it was when the same command is given again. `stage` does the same for
a profile.

One completion a problem is greedy: pass@1 with a Wilson interval. Several are sampled: avg@k, with a bootstrap interval
over problems, since the samples of one problem are not independent; and pass@k.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import locked, sha256_of, write_json, write_jsonl, write_text
from attention_rhythm.generation.base import GenerationError, SamplingConfig
from attention_rhythm.generation.engines import ENGINES, Engine, make_engine
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.models import check_spec, model_sha256
from attention_rhythm.statistics import bootstrap_interval, pass_at_k, wilson_interval
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import DataError, NoSource, Problem, load_problems
from attention_rhythm.tasks.prompts import prompts_that_fit
from attention_rhythm.tasks.registry import TASKS
from evaluation.settings import Run


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is evaluated."""

    tasks: tuple[str, ...]
    limit: int = 0  # problems of each task, a random sample by `seed`; 0: all
    samples: int = 1  # completions a problem; 1: greedy
    samples_of: Mapping[str, int] | None = None  # other numbers of completions for some tasks (the paper: 16 for AIME)
    max_new_tokens: int = 1024
    temperature: float = 0.7  # of sampled completions
    batch_size: int = 32  # completions at once: memory and speed
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [name for name in (*self.tasks, *(self.samples_of or {})) if name not in TASKS]:
            raise UsageError(f"unknown task {unknown[0]!r}: one of {', '.join(sorted(TASKS))}")
        if not self.tasks:
            raise UsageError("no tasks to evaluate")
        numbers = {"samples": self.samples, "max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        numbers |= {f"samples_of.{name}": count for name, count in (self.samples_of or {}).items()}
        for name, value in numbers.items():
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.limit < 0:
            raise UsageError(f"limit must be at least 0, not {self.limit}")

    def sampling(self, task: str) -> SamplingConfig:
        """Greedy for one completion a problem, sampled for more."""
        samples = (self.samples_of or {}).get(task, self.samples)
        temperature = self.temperature if samples > 1 else 0.0
        return SamplingConfig(self.max_new_tokens, temperature=temperature, samples=samples, seed=self.seed)


def load_tasks(
    config: EvaluationConfig, data_dir: Path | None, *, skip_missing: bool
) -> tuple[dict[str, list[Problem]], dict[str, str]]:
    """The problems of each task, and why there are none of the others.

    skip_missing: a task that cannot be had here is left out, as long as there is another one.
    """
    problems, missing = {}, {}
    for task in config.tasks:
        try:
            problems[task] = load_problems(task, limit=config.limit or None, seed=config.seed, data_dir=data_dir)
        except NoSource as error:
            if not skip_missing:
                raise
            missing[task] = str(error)
    if not problems:
        raise ReproError("; ".join(missing.values()))
    return problems, missing


def evaluate(
    engine: Engine, problems: Mapping[str, Sequence[Problem]], config: EvaluationConfig, partial: Path
) -> list[dict[str, Any]]:
    """One row a completion: task, problem, sample, text, tokens, finish_reason, correct, score, extracted, source.

    partial: where finished completions are kept until all are done. It may hold those of other settings' problems but
    not other completions of these: its name has to tell settings apart.
    """
    rows = []
    for task, chosen in problems.items():
        prompts = prompts_that_fit(chosen, engine.tokenizer, engine.context, config.max_new_tokens)
        requests = [Request(f"{task}/{problem.id}", prompts[problem.id]) for problem in chosen]
        records = complete(engine.generator, requests, config.sampling(task), partial, config.batch_size, task)
        samples = config.sampling(task).samples
        for number, record in enumerate(tqdm(records, desc=f"{task}, graded", unit="response", leave=False)):
            problem = chosen[number // samples]
            verdict = grade(problem, record["text"])
            rows.append(
                {
                    "task": task,
                    "problem": problem.id,
                    "graded_as": problem.task,
                    "source": problem.metadata["source"],
                    "sample": record["sample"],
                    "text": record["text"],
                    "tokens": len(record["token_ids"]),
                    "finish_reason": record["finish_reason"],
                    **asdict(verdict),
                }
            )
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """For each task its accuracy in percent with a 95% interval, in the order of the rows.

    metric: pass@1 (Wilson interval) | avg@k (bootstrap interval over problems). best_of: pass@k of all k samples.
    cut_off: percent of completions that reached the limit. source: file, hub or generated.
    """
    frame = pd.DataFrame(rows)
    result = []
    for task, own in frame.groupby("task", sort=False):
        correct = own.pivot(index="problem", columns="sample", values="correct").to_numpy(dtype=float)  # (P, S)
        problems, samples = correct.shape
        if samples == 1:
            interval, method = wilson_interval(int(correct.sum()), problems), "wilson"
        else:
            interval, method = bootstrap_interval(correct, seed=seed), "bootstrap"
        result.append(
            {
                "task": task,
                "graded_as": own["graded_as"].iloc[0],
                "source": own["source"].iloc[0],
                "problems": problems,
                "samples": samples,
                "metric": "pass@1" if samples == 1 else f"avg@{samples}",
                "accuracy": 100 * interval.estimate,
                "ci": [100 * interval.low, 100 * interval.high],
                "interval": method,
                "best_of": 100 * float(pass_at_k(correct.sum(1), samples, samples).mean()),
                "score": float(own["score"].mean()),
                "tokens": float(own["tokens"].mean()),
                "cut_off": 100 * float((own["finish_reason"] == "length").mean()),
            }
        )
    return result


def table(summary: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> str:
    """The accuracies as a Markdown table, and below it the tasks that could not be had."""
    shown = pd.DataFrame(
        {
            "Task": row["task"] if row["graded_as"] == row["task"] else f"{row['task']} ({row['graded_as']})",
            "Metric": row["metric"],
            "Accuracy % [95%]": f"{row['accuracy']:.1f} [{row['ci'][0]:.1f}, {row['ci'][1]:.1f}]",
            "Problems": row["problems"],
            "Tokens": f"{row['tokens']:.0f}",
            "Cut off %": f"{row['cut_off']:.0f}",
            "Source": row["source"],
        }
        for row in summary
    )
    lines = [shown.to_markdown(index=False, disable_numparse=True)]
    lines += [f"\n{task}: not evaluated ({reason})" for task, reason in missing.items()]
    return "\n".join(lines) + "\n"


def stage(run: Run) -> None:
    """Write evaluation.jsonl, one row a completion, and evaluation.json, the accuracies."""
    settings, precision = dict(run.section("evaluation")), run.section("model")
    name = settings.pop("engine")
    config = EvaluationConfig(**{**settings, "tasks": tuple(settings["tasks"])}, seed=run.seed)
    problems, missing = load_tasks(config, run.data_dir, skip_missing=True)
    engine = make_engine(name, run.model, dtype=precision["dtype"], device=precision["device"])
    rows = evaluate(engine, problems, config, run.partial("evaluation.jsonl"))
    summary = summarise(rows, run.seed)
    write_jsonl(run.path("evaluation.jsonl"), rows)
    write_json(
        run.path("evaluation.json"),
        {"settings": asdict(config), "engine": engine.name, "tasks": summary, "missing": missing},
    )
    print(table(summary, missing))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.run", description="Evaluate a model on benchmarks; killed, it goes on where it was."
    )
    parser.add_argument(
        "--model", required=True, metavar="ID_OR_PATH", help="smollm2-135m-instruct, a folder, a hub id"
    )
    parser.add_argument("--tasks", required=True, metavar="A,B", help=", ".join(sorted(TASKS)))
    parser.add_argument("--samples", type=int, default=1, metavar="K", help="completions a problem; 1: greedy")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="problems of each task; 0: all")
    parser.add_argument("--max-new-tokens", type=int, default=1024, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="T", help="of sampled completions")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="completions at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="auto: vllm on a GPU, else hf")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="benchmarks as JSON lines (default: DATA_DIR)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/evaluation/MODEL")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = make_parser().parse_args(arguments)
    try:
        config = EvaluationConfig(
            tasks=tuple(options.tasks.split(",")),
            limit=options.limit,
            samples=options.samples,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            batch_size=options.batch_size,
            seed=options.seed,
        )
        out = options.out or Path("results", "evaluation", Path(options.model).name)
        check_spec(options.model)  # costs nothing; problems may come from the hub
        problems, _ = load_tasks(config, options.data_dir, skip_missing=False)
        engine = make_engine(options.engine, options.model, dtype=options.dtype, device=options.device)
        sha256 = model_sha256(options.model)
        # the limit and the batch size decide how much is done, and how fast, but not what a completion is
        decides = {k: v for k, v in asdict(config).items() if k not in ("tasks", "limit", "batch_size")}
        mark = sha256_of([sha256, engine.name, options.dtype, decides])[:16]
        with locked(out):
            started = time.monotonic()
            rows = evaluate(engine, problems, config, out / f".completions.{mark}.partial")
            summary = summarise(rows, config.seed)
            write_jsonl(out / "completions.jsonl", rows)
            write_json(
                out / "evaluation.json",
                {
                    "model": Path(options.model).name,
                    "sha256": sha256,
                    "engine": engine.name,
                    "settings": asdict(config),
                    "tasks": summary,
                    "seconds": round(time.monotonic() - started, 1),
                },
            )
            write_text(out / "table.md", table(summary, {}))
    except (ReproError, DataError, GenerationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from there", file=sys.stderr)
        return 130
    print(table(summary, {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
