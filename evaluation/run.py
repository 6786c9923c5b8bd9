"""Accuracy on benchmarks: problems, completions, grades, a table.

    python -m evaluation.run --model MODEL --tasks aime24 math500 --samples 16 --engine vllm

writes, below --out, completions.jsonl (one row a completion, with its grade), evaluation.json (accuracies with
intervals) and table.md. Killed, it goes on where it was when the same command is given again. `stage` does the same for
a profile.

One completion a problem is greedy: pass@1 with a Wilson interval. Several are sampled: avg@k, with a bootstrap interval
over problems, since the samples of one problem are not independent; and pass@k.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import tyro
from tqdm import tqdm

from attention_rhythm.commands import run_command
from attention_rhythm.errors import UsageError, unknown
from attention_rhythm.files import locked, sha256_of, write_json, write_jsonl, write_text
from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.engines import Engine, make_engine
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.models import check_spec, model_name, model_sha256
from attention_rhythm.statistics import bootstrap_interval, pass_at_k, wilson_interval
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import Problem, load_problems
from attention_rhythm.tasks.prompts import prompts_that_fit
from attention_rhythm.tasks.registry import TASKS
from evaluation.settings import EvaluationConfig, Run


def sampling_of(config: EvaluationConfig, task: str) -> SamplingConfig:
    """Greedy for one completion a problem, sampled for more."""
    samples = config.samples_of.get(task, config.samples)
    temperature = config.temperature if samples > 1 else 0.0
    return SamplingConfig(config.max_new_tokens, temperature=temperature, samples=samples, seed=config.seed)


def load_tasks(config: EvaluationConfig, data_dir: Path | None) -> dict[str, list[Problem]]:
    """The problems of each task.

    Raises:
        UsageError: a task that does not exist. NoSource: a benchmark that is neither in DATA_DIR nor on the hub.
    """
    if strange := [name for name in (*config.all_tasks, *config.samples_of) if name not in TASKS]:
        raise UsageError(unknown("task", strange[0], TASKS))
    options = {"limit": config.limit or None, "seed": config.seed, "data_dir": data_dir}
    return {
        **{task: load_problems(task, **options, source="benchmark") for task in config.tasks},
        **{task: load_problems(task, **options, source="generated") for task in config.generated},
    }


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
        sampling = sampling_of(config, task)
        records = complete(engine.generator, requests, sampling, partial, config.batch_size, task)
        for number, record in enumerate(tqdm(records, desc=f"{task}, graded", unit="response", leave=False)):
            problem = chosen[number // sampling.samples]
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


def table(summary: Sequence[Mapping[str, Any]]) -> str:
    """The accuracies as a Markdown table."""
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
    return shown.to_markdown(index=False, disable_numparse=True) + "\n"


def stage(run: Run, settings: EvaluationConfig) -> None:
    """Write evaluation.jsonl, one row a completion, and evaluation.json, the accuracies."""
    problems = load_tasks(settings, run.data_dir)
    engine = make_engine(settings.engine, run.model.id, dtype=run.model.dtype, device=run.model.device)
    rows = evaluate(engine, problems, settings, run.partial("evaluation.jsonl"))
    summary = summarise(rows, run.seed)
    write_jsonl(run.path("evaluation.jsonl"), rows)
    write_json(run.path("evaluation.json"), {"settings": asdict(settings), "engine": engine.name, "tasks": summary})
    print(table(summary))


@dataclass(frozen=True)
class Options:
    """Evaluate a model on benchmarks; killed, it goes on where it was when the same command is given again."""

    model: str  # smollm2-135m-instruct, a folder, or a hub id
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")]
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights
    device: Literal["cpu", "cuda", "auto"] = "auto"  # auto: cuda if there is one
    data_dir: Path | None = None  # benchmarks as JSON lines; None: the environment's DATA_DIR
    out: Path | None = None  # where the results go; None: results/evaluation/MODEL


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    def work() -> None:
        """Read the command line, and do what it says."""
        run_with(tyro.cli(Options, prog="python -m evaluation.run", args=arguments))

    return run_command(work, after_interrupt="the same command goes on from there")


def run_with(options: Options) -> None:
    """Evaluate, write the three files and print the table."""
    config = options.config
    check_spec(options.model)  # costs nothing; problems may come from the hub
    name = model_name(options.model)
    out = options.out or Path("results", "evaluation", name)
    problems = load_tasks(config, options.data_dir)
    engine = make_engine(config.engine, options.model, dtype=options.dtype, device=options.device)
    sha256 = model_sha256(options.model)
    # what is left out decides how much is done, and how fast, but not what a completion is
    decides = {k: v for k, v in asdict(config).items() if k not in ("tasks", "generated", "limit", "batch_size")}
    mark = sha256_of([sha256, engine.name, options.dtype, decides])[:16]
    with locked(out):
        started = time.monotonic()
        rows = evaluate(engine, problems, config, out / f".completions.{mark}.partial")
        summary = summarise(rows, config.seed)
        write_jsonl(out / "completions.jsonl", rows)
        write_json(
            out / "evaluation.json",
            {
                "model": name,
                "sha256": sha256,
                "engine": engine.name,
                "settings": asdict(config),
                "tasks": summary,
                "seconds": round(time.monotonic() - started, 1),
            },
        )
        write_text(out / "table.md", table(summary))
    print(table(summary))


if __name__ == "__main__":
    sys.exit(main())
