"""The embedded experiment: every credit strategy, several seeds, one recipe, on a policy that two cores can train.

A recipe (configs/countdown.toml) holds all settings; a variant changes some of them (configs/variants.toml: the six
strategies, and the rows of the paper's ablation tables). A run is a variant with a seed, in a folder of its own below
results/PROFILE/training/; runs are independent, resumable, and done several at a time, one thread each. All variants of
a seed see the same problems in the same order with the same random numbers, so they are compared seed by seed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import tomllib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm import tqdm

from attention_rhythm.credit import CreditConfig
from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import read_json, read_jsonl, sha256_of, write_json, write_table
from attention_rhythm.generation.base import Generator, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import generate_in_parts
from attention_rhythm.models import load_model, model_sha256
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles
from evaluation.settings import Run
from training import checkpoint
from training.actors.train import OptimConfig
from training.loop import TrainConfig, train
from training.settings import ExperimentSettings

CONFIGS = Path(__file__).parent / "configs"
ROOT = Path(__file__).resolve().parent.parent
PASSES = ("micro_batch", "generation_batch", "forward_batch")  # of a recipe: memory, speed and rounding, not the result
BASELINES = ("grpo", "random")  # what every other variant is compared with
CURVES = (
    "reward_mean", "response_length", "entropy", "gamma_coverage", "gamma_mean", "advantage_size", "shaped_size",
    "clip_share", "approx_kl", "grad_norm", "useful_groups", "eval_sampled", "waad_peak_entropy_lift",
    "fai_follows_or_coincides_waad_lift", "seconds_generate", "seconds_read", "seconds_reward", "seconds_credit",
    "seconds_update",
)  # fmt: skip


# ------------------------------------------------------------------------------------------ settings


def load_toml(name: str) -> dict[str, Any]:
    """training/configs/NAME.toml."""
    return tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))


def make_config(recipe: Mapping[str, Any], variant: Mapping[str, Any], *, steps: int, seed: int) -> TrainConfig:
    """The recipe with a variant's changes: tables [credit], [signals], [optim]; the rest is `[loop]`."""
    tables = {
        name: {**recipe.get(name, {}), **variant.get(name, {})} for name in ("credit", "signals", "optim", "loop")
    }
    horizon = tables["signals"].get("horizon")
    if horizon is not None:  # TOML has no null: "end" is an open horizon
        tables["signals"]["horizon"] = (horizon[0], None if horizon[1] == "end" else horizon[1])
    if tables["signals"].get("head_fraction") == "all":
        tables["signals"]["head_fraction"] = None
    return TrainConfig(
        credit=CreditConfig(**tables["credit"]),
        signals=SignalConfig(**tables["signals"]),
        optim=OptimConfig(**{k: tuple(v) if k == "betas" else v for k, v in tables["optim"].items()}),
        **tables["loop"],
        steps=steps,
        seed=seed,
    )


def with_passes_of(recipe: Mapping[str, Any], sequences: int) -> dict[str, Any]:
    """The recipe with at most `sequences` in one pass of actor_attn and actor_train: another speed, other rounding."""
    passes = {"optim": {"micro_batch": sequences}, "loop": {"forward_batch": sequences}}
    return {**recipe, **{table: {**recipe.get(table, {}), **change} for table, change in passes.items()}}


def variants_of(tables: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The variants of some groups of configs/variants.toml, by name. UsageError for a group that is not there."""
    groups = load_toml("variants")
    if unknown := [name for name in tables if name not in groups]:
        raise UsageError(f"no group {unknown[0]!r} in training/configs/variants.toml: one of {', '.join(groups)}")
    return {name: variant for group in tables for name, variant in groups[group].items()}


# ---------------------------------------------------------------------------------------------- runs


def correct(problem: Problem, text: str) -> float:
    """The reward: 1 for a correct answer, else 0.

    The grader's own score pays 0.1 for a wrong answer and nothing for a search that was cut off: with it, the policy
    learned to answer at once, and its accuracy collapsed.
    """
    return float(grade(problem, text).correct)


def sampled_accuracy(
    generator: Generator, tokenizer: Any, problems: list[Problem], *, samples: int, max_new_tokens: int, batch: int
) -> np.ndarray:
    """Correctness (P, samples) of responses at T = 1; one greedy response each where `samples` is 0, (P, 1)."""
    sampling = SamplingConfig(max_new_tokens, temperature=1.0 if samples else 0.0, samples=max(samples, 1), seed=1)
    prompts = [build_prompt_ids(problem, tokenizer) for problem in problems]
    at_once = max(1, batch // sampling.samples)
    completions = generate_in_parts(generator, prompts, sampling, at_once, "generation_batch")
    right = [grade(problems[i // sampling.samples], c.text).correct for i, c in enumerate(completions)]
    return np.array(right).reshape(len(problems), sampling.samples)


def is_finished(folder: Path) -> bool:
    """Whether a run has been trained and measured."""
    return (folder / "final.json").exists()


def one_run(folder: Path, policy: str, config: TrainConfig, held_out: int, samples: int) -> None:
    """Train one variant with one seed, then measure it on held-out puzzles: final.json. Goes on where it was killed."""
    if is_finished(folder):
        return
    torch.set_num_threads(1)
    model, tokenizer = load_model(policy)
    test = load_puzzles("test", held_out)
    measure = {"max_new_tokens": config.max_new_tokens, "batch": config.generation_batch}

    def evaluate(generator: Generator) -> dict[str, float]:
        return {"sampled": float(sampled_accuracy(generator, tokenizer, test, samples=1, **measure).mean())}

    train(
        model,
        tokenizer,
        load_puzzles("train"),
        folder=folder,
        prompt=lambda problem: build_prompt_ids(problem, tokenizer),
        reward=correct,
        config=config,
        evaluate=evaluate,
        resume=True,
    )
    generator = HFGenerator(model, tokenizer)
    final = {
        "sampled": sampled_accuracy(generator, tokenizer, test, samples=samples, **measure).mean(1),
        "greedy": sampled_accuracy(generator, tokenizer, test, samples=0, **measure)[:, 0].astype(float),
    }
    write_json(folder / "final.json", {name: values.tolist() for name, values in final.items()})
    shutil.rmtree(folder / "checkpoints")


def _be_worker() -> None:
    """A worker must not outlive a killed parent: two processes would write into one run's folder. It draws no bars, and
    leaves Ctrl-C, which a terminal sends to both, to the parent: interrupted itself, it would take up the next run."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


def run_all(policy: str, configs: Mapping[Path, TrainConfig], workers: int, held_out: int, samples: int) -> None:
    """Every run that is not finished, `workers` at a time, in the order of `configs`, by folder.

    The bar counts the steps of all runs. A run that fails ends it, once those that are under way have ended; Ctrl-C
    ends it at once, and costs what came after each run's last checkpoint. ReproError if a worker dies.
    """

    def steps_done(unfinished: Callable[[Path], int]) -> int:
        return sum(config.steps if is_finished(folder) else unfinished(folder) for folder, config in configs.items())

    def kept(folder: Path) -> int:
        """Steps of a run that need not be done again: those before its last checkpoint."""
        return checkpoint.latest_step(folder / "checkpoints")

    def logged(folder: Path) -> int:
        """Lines of a run's metrics, of which the first is step 0."""
        metrics = folder / "metrics.jsonl"
        return max(0, metrics.read_bytes().count(b"\n") - 1) if metrics.exists() else 0

    total = sum(config.steps for config in configs.values())
    with (
        tqdm(total=total, initial=steps_done(kept), desc="training", unit="step") as bar,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _be_worker) as pool,
    ):
        todo = {folder: config for folder, config in configs.items() if not is_finished(folder)}
        others = multiprocessing.active_children()
        jobs = [pool.submit(one_run, folder, policy, config, held_out, samples) for folder, config in todo.items()]
        try:
            while jobs:
                ended, pending = wait(jobs, timeout=1, return_when=FIRST_COMPLETED)
                jobs = list(pending)
                for job in ended:
                    job.result()
                bar.set_postfix_str(f"{len(configs) - len(jobs)}/{len(configs)} runs", refresh=False)
                if (done := steps_done(logged)) != bar.n:
                    bar.n = done  # not update(): a run that goes on drops what came after its checkpoint
                    bar.refresh()
        except KeyboardInterrupt:
            for process in set(multiprocessing.active_children()).difference(others):
                process.kill()
            raise
        except BrokenProcessPool as error:
            raise ReproError(
                f"a worker process died, killed or out of memory ({sum(map(is_finished, configs))} of {len(configs)} "
                "runs are finished and kept); the same command goes on from there, fewer workers need less memory"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------- stages


def stage(run: Run, settings: ExperimentSettings) -> None:
    """The default experiment: training.csv, a row a run and step; training.json, accuracies and comparisons."""
    experiment(run, settings, "training")


def extended(run: Run, settings: ExperimentSettings) -> None:
    """The same with more seeds and steps: training_extended.csv and .json."""
    experiment(run, settings, "training_extended")


def ablations(run: Run, settings: ExperimentSettings) -> None:
    """The rows of Tables 5, 7a, 9, 14 and 19: ablations.csv and .json."""
    experiment(run, settings, "ablations")


def experiment(run: Run, settings: ExperimentSettings, name: str) -> None:
    """Do the runs of table [name] of the profile below NAME/, then write NAME.csv (six digits) and NAME.json.

    A finished run is kept as long as its settings and its policy are the same, whatever has happened to the code: the
    manifest says with which code the summary was made. Delete its folder to do it again. A run that another experiment
    of the profile has finished is not done twice.
    """
    recipe = load_toml(settings.recipe)
    if settings.sequences_per_pass is not None:
        recipe = with_passes_of(recipe, settings.sequences_per_pass)
    policy = ROOT / recipe["policy"]
    variants = variants_of(settings.groups)
    measured = {"held_out": settings.held_out, "samples": settings.samples}
    described = [model_sha256(str(policy)), without_passes(recipe), settings.steps, measured]
    configs: dict[Path, TrainConfig] = {}
    runs: list[tuple[str, int, Path]] = []
    for seed in settings.seeds:
        for variant, changes in variants.items():
            mark = sha256_of([*described, changes, seed])
            folder = find_run(run.root, name, f"{variant}-seed{seed}", mark, passes_of(recipe))
            configs[folder] = make_config(recipe, changes, steps=settings.steps, seed=seed)
            runs.append((variant, seed, folder))
    run_all(str(policy), configs, settings.workers, **measured)

    finals = [{"variant": variant, "seed": seed, **read_json(folder / "final.json")} for variant, seed, folder in runs]
    curves = pd.concat(
        [
            pd.DataFrame(read_jsonl(folder / "metrics.jsonl")).assign(variant=variant, seed=seed)
            for variant, seed, folder in runs
        ],
        ignore_index=True,
    )
    measures = [column for column in CURVES if column in curves]
    rounded = curves[measures].map(lambda value: float(f"{value:.6g}"))  # metrics.jsonl has every digit
    write_table(run.path(f"{name}.csv"), pd.concat([curves[["variant", "seed", "step"]], rounded], axis=1))
    write_json(
        run.path(f"{name}.json"),
        {"settings": asdict(settings), "recipe": recipe, "variants": variants, "results": summarise(finals, curves)},
    )


def without_passes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without the sizes of passes: two runs that differ in these alone are the same run."""
    return {
        name: {k: v for k, v in value.items() if k not in PASSES} if isinstance(value, dict) else value
        for name, value in recipe.items()
    }


def passes_of(recipe: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of passes in a recipe."""
    tables = (value for value in recipe.values() if isinstance(value, dict))
    return {key: table[key] for table in tables for key in PASSES if key in table}


def find_run(root: Path, experiment: str, name: str, mark: str, passes: Mapping[str, int]) -> Path:
    """The folder of a run: of `experiment`, or of another one that has finished the same run; `mark` says what it is.

    What is in the folder and is not that run is dropped. So is an unfinished one in passes of other sizes: a checkpoint
    goes on under its own settings only.
    """
    for folder in sorted(root.glob(f"*/{name}")):
        if is_finished(folder) and read_json(folder / "run.json")["mark"] == mark:
            return folder
    folder = root / experiment / name
    path, own = folder / "run.json", {"mark": mark, "passes": dict(passes)}
    if folder.exists() and not (path.exists() and read_json(path) == own):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, own)
    return folder


def summarise(finals: list[dict[str, Any]], curves: pd.DataFrame) -> list[dict[str, Any]]:
    """For each variant its final held-out accuracy (percent) and how it differs from the baselines.

    finals: variant, seed, and correctness by puzzle: `sampled` (mean of the samples at T = 1) and `greedy`.
    accuracy: mean over seeds with a 95% t interval over seeds; gain: the same over the warm start of step 0, seed by
    seed; against: differences from each baseline, paired by seed (paired t test, and its interval), percentage points.
    Intervals are undefined (null) with one seed.
    """
    accuracy = {(f["variant"], f["seed"]): 100 * float(np.mean(f["sampled"])) for f in finals}
    greedy = {(f["variant"], f["seed"]): 100 * float(np.mean(f["greedy"])) for f in finals}
    start = curves[curves["step"] == 0].set_index(["variant", "seed"])["eval_sampled"]
    variants = list(dict.fromkeys(f["variant"] for f in finals))
    result = []
    for variant in variants:
        seeds = [seed for name, seed in accuracy if name == variant]
        own = np.array([accuracy[variant, seed] for seed in seeds])
        before = np.array([100 * start[variant, seed] for seed in seeds])
        steps = curves[(curves["variant"] == variant) & (curves["step"] > 0)]
        against = {}
        for baseline in BASELINES:
            shared = [seed for seed in seeds if (baseline, seed) in accuracy]
            if baseline != variant and shared:
                difference = np.array([accuracy[variant, seed] - accuracy[baseline, seed] for seed in shared])
                against[baseline] = {**mean_and_interval(difference), "seeds": len(shared)}
        result.append(
            {
                "variant": variant,
                "seeds": len(seeds),
                "accuracy": mean_and_interval(own),
                "by_seed": own.tolist(),
                "greedy": mean_and_interval(np.array([greedy[variant, seed] for seed in seeds])),
                "gain": mean_and_interval(own - before),
                "against": against,
                "gamma_coverage": float(steps["gamma_coverage"].mean()),
                "gamma_mean": float(steps["gamma_mean"].mean()),
                "seconds_per_step": float(steps.filter(regex="^seconds_(?!evaluate)").sum(axis=1).mean()),
            }
        )
    return result


def mean_and_interval(values: np.ndarray) -> dict[str, Any]:
    """Mean, 95% t interval and two-sided p-value against 0 of (n,) values; NaN for the latter two where n is 1."""
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "ci": [float("nan")] * 2, "p_value": float("nan")}
    if np.ptp(values) == 0:
        return {"mean": mean, "ci": [mean, mean], "p_value": 1.0 if mean == 0 else 0.0}
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(0.95)
    return {"mean": mean, "ci": [float(interval.low), float(interval.high)], "p_value": float(test.pvalue)}
