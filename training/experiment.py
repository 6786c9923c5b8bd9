"""The embedded experiment: every credit strategy, several seeds, one recipe, on a policy that two cores can train.

A recipe (configs/countdown.toml) holds all settings; a variant changes some of them (configs/variants.toml: the six
strategies, and the rows of the paper's ablation tables). A run is a variant with a seed (runs.py); runs are independent
of each other, resumable, and done several at a time, one thread each. All variants of a seed see the same problems in
the same order with the same random numbers, so they are compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attention_rhythm.errors import UsageError
from attention_rhythm.files import sha256_of, write_json
from attention_rhythm.models import model_sha256
from attention_rhythm.statistics import t_interval
from evaluation.settings import Run
from training.recipes import load_toml, make_config
from training.runs import PASSES, PlannedRun, do_and_keep
from training.settings import ExperimentSettings, RunsSettings

ROOT = Path(__file__).resolve().parent.parent
BASELINES = ("grpo", "random")  # what every other variant is compared with


# ------------------------------------------------------------------------------------------ settings


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
    """Do the runs of table [name] of the profile, keep them in NAME_*.parquet and NAME_runs.json, sum up in NAME.json.

    A finished run is kept as long as its settings and its policy are the same, whatever has happened to the code: its
    row says with which code it was made, the manifest with which code the summary.
    """
    recipe = recipe_of(settings)
    variants = variants_of(settings.groups)
    planned = plan(recipe, [(variants, seed) for seed in settings.seeds], settings)
    curves, finals = do(run, name, recipe, planned, settings)
    write_json(
        run.path(f"{name}.json"),
        {"settings": asdict(settings), "recipe": recipe, "variants": variants, "results": summarise(finals, curves)},
    )


def recipe_of(settings: RunsSettings) -> dict[str, Any]:
    """The recipe, with the sizes of passes that the settings want."""
    recipe = load_toml(settings.recipe)
    return recipe if settings.sequences_per_pass is None else with_passes_of(recipe, settings.sequences_per_pass)


def plan(
    recipe: Mapping[str, Any], seeds: Iterable[tuple[Mapping[str, dict[str, Any]], int]], settings: RunsSettings
) -> list[PlannedRun]:
    """The runs of some variants with a seed, then those of others or of another seed, in this order."""
    measured = {"held_out": settings.held_out, "samples": settings.samples}
    described = [model_sha256(str(ROOT / recipe["policy"])), without_passes(recipe), settings.steps, measured]
    return [
        PlannedRun(
            variant,
            seed,
            sha256_of([*described, changes, seed]),
            make_config(recipe, changes, steps=settings.steps, seed=seed),
        )
        for variants, seed in seeds
        for variant, changes in variants.items()
    ]


def do(
    run: Run, name: str, recipe: Mapping[str, Any], planned: list[PlannedRun], settings: RunsSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves and finals of the runs, which are done where they are not kept."""
    policy = str(ROOT / recipe["policy"])
    measured = {"held_out": settings.held_out, "samples": settings.samples}
    return do_and_keep(run.root, name, policy, planned, settings.workers, **measured)


def without_passes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without the sizes of passes: two runs that differ in these alone are the same run."""
    sizes = {name for names in PASSES.values() for name in names}
    return {
        name: {k: v for k, v in value.items() if k not in sizes} if isinstance(value, dict) else value
        for name, value in recipe.items()
    }


def summarise(finals: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, Any]]:
    """For each variant its final held-out accuracy (percent) and how it differs from the baselines.

    finals: a row a run and puzzle: variant, seed, `sampled` (mean of the samples at T = 1) and `greedy`.
    accuracy: mean over seeds with a 95% t interval over seeds; gain: the same over the warm start of step 0, seed by
    seed; against: differences from each baseline, paired by seed (paired t test, and its interval), percentage points.
    Intervals are undefined (null) with one seed.
    """
    runs = {key: own for key, own in finals.groupby(["variant", "seed"], sort=False)}
    accuracy = {key: 100 * float(np.mean(own["sampled"].to_numpy())) for key, own in runs.items()}
    greedy = {key: 100 * float(np.mean(own["greedy"].to_numpy())) for key, own in runs.items()}
    start = curves[curves["step"] == 0].set_index(["variant", "seed"])["eval_sampled"]
    variants = list(finals["variant"].unique())
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
                against[baseline] = {**_mean(difference), "seeds": len(shared)}
        result.append(
            {
                "variant": variant,
                "seeds": len(seeds),
                "accuracy": _mean(own),
                "by_seed": own.tolist(),
                "greedy": _mean(np.array([greedy[variant, seed] for seed in seeds])),
                "gain": _mean(own - before),
                "against": against,
                "gamma_coverage": float(steps["gamma_coverage"].mean()),
                "gamma_mean": float(steps["gamma_mean"].mean()),
                "seconds_per_step": float(steps.filter(regex="^seconds_(?!evaluate)").sum(axis=1).mean()),
            }
        )
    return result


def _mean(values: np.ndarray) -> dict[str, Any]:
    """As the summary has it: mean, its 95% t interval and p-value; null where undefined."""
    interval = t_interval(values)
    return {"mean": interval.mean, "ci": [interval.low, interval.high], "p_value": interval.p_value}
