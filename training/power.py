"""Stage `power`: every strategy, reading, dose and control with enough seeds to see a difference (docs/protocol.md).

The primary endpoint is the mean training reward over all steps: of two policies that end alike the one that learns
faster has more of it, and it varies by a third as much between seeds as the final accuracy does. Arms are compared by
contrasts with one variance for all; the p-values of a family are adjusted by Holm.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from attention_rhythm.files import write_json
from attention_rhythm.statistics import holm, pooled_contrasts, t_interval
from evaluation.settings import Run
from training.experiment import do, plan, recipe_of, variants_of
from training.settings import PowerSettings

PRIMARY = "reward"
ENDPOINTS = ("reward", "sampled", "greedy", "steps_to_20", "steps_to_25", "length", "entropy")
LAST = 10  # batches whose mean says how good a policy is at a step
LEVEL = 0.05  # of the adjusted p-values


def stage(run: Run, settings: PowerSettings) -> None:
    """The runs in power_*.parquet and power_runs.json, done in the order of `order`; power.json says what follows."""
    recipe = recipe_of(settings)
    usual, dosed = variants_of(settings.groups), variants_of(settings.dosed)
    planned = plan(recipe, [(dosed if is_dosed else usual, seed) for is_dosed, seed in order(settings)], settings)
    curves, finals = do(run, "power", recipe, planned, settings)
    table = endpoints(curves, finals)
    write_json(
        run.path("power.json"),
        {
            "settings": asdict(settings),
            "recipe": recipe,
            "variants": usual | dosed,
            "arms": arms(table),
            "contrasts": contrasts(table, families(list(usual), list(dosed))),
        },
    )


def order(settings: PowerSettings) -> list[tuple[bool, int]]:
    """(whether at another dose, seed) as they are run: the seeds that all arms have first, then what is left."""
    both = min(settings.seeds, settings.dosed_seeds)
    counts = [(False, range(both)), (True, range(settings.dosed_seeds)), (False, range(both, settings.seeds))]
    return [(dosed, settings.first_seed + number) for dosed, numbers in counts for number in numbers]


def endpoints(curves: pd.DataFrame, finals: pd.DataFrame) -> pd.DataFrame:
    """One row a run: variant, seed, and ENDPOINTS.

    reward: mean over steps from 1 on, percent. sampled, greedy: final held-out accuracy, percent. steps_to_X: the first
    at which the mean reward of the last LAST batches is X percent or more; one more than there are where it never is.
    length (tokens), entropy (nats): means over the last LAST steps.
    """
    rows = []
    for (variant, seed), own in curves[curves["step"] > 0].groupby(["variant", "seed"], sort=False):
        own = own.sort_values("step")
        reward = 100 * own["reward_mean"]
        recent = reward.rolling(LAST).mean()
        row: dict[str, Any] = {"variant": variant, "seed": seed, "reward": reward.mean()}
        for percent in (20, 25):
            reached = own["step"][recent >= percent]
            row[f"steps_to_{percent}"] = float(reached.iloc[0] if len(reached) else own["step"].max() + 1)
        row["length"], row["entropy"] = (own[name].tail(LAST).mean() for name in ("response_length", "entropy"))
        rows.append(row)
    final = 100 * finals.groupby(["variant", "seed"], sort=False)[["sampled", "greedy"]].mean()
    return pd.DataFrame(rows).merge(final.reset_index(), on=["variant", "seed"], validate="one_to_one")


def arms(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each variant its seeds, and of each endpoint the values by seed, their mean and its own t interval."""
    return [
        {
            "variant": variant,
            "seeds": len(own),
            **{
                name: {
                    "by_seed": own[name].tolist(),
                    "mean": (interval := t_interval(own[name])).mean,
                    "ci": [interval.low, interval.high],
                }
                for name in ENDPOINTS
            },
        }
        for variant, own in table.groupby("variant", sort=False)
    ]


def families(usual: list[str], dosed: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Contrasts (arm, baseline) whose p-values are adjusted together: all arms against GRPO, and all credit against
    random credit of its dose."""
    credit = [name for name in usual if name not in ("grpo", "random")]
    credit_dosed = [name for name in dosed if not name.startswith("random")]
    randoms = [name for name in dosed if name.startswith("random")]
    return {
        "grpo": [(name, "grpo") for name in [*usual, *dosed] if name != "grpo"],
        "random": [(name, "random") for name in credit] + [(name, randoms[0]) for name in credit_dosed if randoms],
    }


def contrasts(table: pd.DataFrame, pairs: dict[str, list[tuple[str, str]]]) -> list[dict[str, Any]]:
    """Each contrast of each family at each endpoint: difference with its interval, p, Holm's p, what could have been
    seen, and the verdict: better | worse | not shown, by Holm's p at LEVEL."""
    there = list(dict.fromkeys(table["variant"]))
    found = []
    for endpoint in ENDPOINTS:
        values = [table.loc[table["variant"] == variant, endpoint].to_numpy() for variant in there]
        for family, wanted in pairs.items():
            known = [(arm, base) for arm, base in wanted if arm in there and base in there]
            own = pooled_contrasts(values, [(there.index(arm), there.index(base)) for arm, base in known])
            adjusted = holm([contrast.p_value for contrast in own])
            found += [
                {
                    "endpoint": endpoint,
                    "family": family,
                    "variant": arm,
                    "against": base,
                    **asdict(contrast),
                    "p_holm": float(p),
                    "verdict": verdict(contrast.difference, float(p), endpoint),
                }
                for (arm, base), contrast, p in zip(known, own, adjusted, strict=True)
            ]
    return found


def verdict(difference: float, p_holm: float, endpoint: str) -> str:
    """better | worse | not shown; of length and entropy, which are neither good nor bad: more | fewer."""
    if not p_holm < LEVEL or np.isnan(difference):
        return "not shown"
    if endpoint in ("length", "entropy"):
        return "more" if difference > 0 else "less"
    return "better" if (difference > 0) != endpoint.startswith("steps_to") else "worse"
