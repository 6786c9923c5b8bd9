"""From token values and signals to what they say: which signals find the tokens that change the outcome, and which
kinds of tokens do.

Every choice of tokens is compared with chance, all over and among tokens of the same place (fifth of the response) and
kind. To score a signal of your own: `score(top(signal, tokens.response, 0.4), tokens)` (docs/extending.md).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from analysis.settings import StudySettings
from analysis.token_signals import CREDITS, SIGNALS
from attention_rhythm.credit import CreditConfig
from attention_rhythm.signals.peaks import find_peaks
from attention_rhythm.statistics import Interval, visible_effect
from attention_rhythm.token_value import (
    Array,
    Score,
    Tokens,
    difference,
    score,
    score_noise,
    signed_change,
    squared_change,
    top,
    verdict,
)

FIFTHS = 5
QUANTILE = CreditConfig().quantile  # of tokens that a signal chooses, as credit does
REFERENCE = "entropy"  # what every signal is compared with, beside chance
PROMINENCE = 0.5  # of a peak, in standard deviations, as in the couplings
MECHANISMS = {  # the paper's claims: the choice of tokens that each is about
    "preplan: WAAD peaks": "waad_peak",
    "anchor: FAI peaks": "fai_peak",
    "coupled-rhythm credit": "coupled_rhythm",
}


def scores_of(
    values: pd.DataFrame, signals: pd.DataFrame, subject: str, settings: StudySettings, seed: int
) -> dict[str, Any]:
    """What NAME.json holds of one subject.

    signals: a row a choice of tokens. kinds: the same of kinds of tokens. mechanisms: the verdicts. noise: what share
    of the plain squared differences is sampling noise. outcome: values before and after a forced token.
    """
    values = values[values["subject"] == subject].reset_index(drop=True)
    signals = signals[signals["subject"] == subject].reset_index(drop=True)
    tokens = tokens_of(values, settings.samples // 2)
    chosen = choices(signals, tokens)
    rows = {name: score(choice, tokens, seed=seed) for name, choice in chosen.items()}
    reference = chosen[REFERENCE]
    return {
        "responses": int(values["response"].nunique()),
        "tokens": len(values),
        "measured": int((values["weight"] > 0).sum()),
        "continuations": int(settings.samples * 3 * (values["weight"] > 0).sum()),
        "signals": [
            {
                "name": name,
                **described(own),
                "against_entropy": plain(difference(chosen[name], reference, tokens, seed=seed)),
                "against_entropy_within": plain(difference(chosen[name], reference, tokens, within=True, seed=seed)),
            }
            for name, own in rows.items()
        ],
        "kinds": [
            {"column": column, "kind": kind, **described(score(choice, tokens, seed=seed))}
            for column, kind, choice in kinds(values)
        ],
        "mechanisms": [
            {
                "name": name,
                "choice": choice,
                "verdict": verdict(rows[choice].within),
                "within": plain(rows[choice].within),
                "visible_effect": visible_effect(rows[choice].within),
            }
            for name, choice in MECHANISMS.items()
        ],
        "noise": noise_share(values, tokens, settings.samples // 2),
        "outcome": outcome(values, settings.samples),
    }


def tokens_of(values: pd.DataFrame, half: int) -> Tokens:
    """The rows of one subject as `attention_rhythm.token_value` takes them; strata: fifth of the response and kind."""
    before, after, other = (
        values[[f"{name}_a", f"{name}_b"]].to_numpy(np.float64) for name in ("before", "after", "other")
    )
    squared = squared_change(before, after, half)
    helps, hurts = signed_change(before, after, half)
    length = values.groupby("response")["t"].transform("size")
    kind = pd.factorize(values["kind"], sort=True)[0]
    return Tokens(
        response=pd.factorize(values["response"])[0].astype(np.int64),
        stratum=(values["t"] * FIFTHS // length).to_numpy(np.int64) * (kind.max() + 1) + kind,
        weight=values["weight"].to_numpy(np.float64),
        squared=squared,
        helps=helps,
        hurts=hurts,
        forced=squared_change(other, after, half),
        gradient=np.exp(values["logprob"].to_numpy(np.float64)) * squared,
        noise=score_noise(values["logprob"].to_numpy(), values["collision"].to_numpy()),
    )


def choices(signals: pd.DataFrame, tokens: Tokens) -> dict[str, Array]:
    """What each signal chooses, (T,): its top tokens; of credit, the tokens that get it; of WAAD and FAI, peaks too."""
    found = {name: top(signals[name].to_numpy(np.float64), tokens.response, QUANTILE) for name in SIGNALS}
    for name in ("waad", "fai"):
        peaks = signals.groupby("response", sort=False)[name].transform(
            lambda x: find_peaks(x.to_numpy(), "prominence", prominence=PROMINENCE).astype(float)
        )
        found[f"{name}_peak"] = peaks.to_numpy(np.float64)
    return found | {name: signals[name].to_numpy(np.float64) for name in CREDITS}


def kinds(values: pd.DataFrame) -> list[tuple[str, str, Array]]:
    """Kinds of tokens as choices: (column, its value, (T,)); those that were measured at least once."""
    frame = values.assign(
        fifth=(values["t"] * FIFTHS // values.groupby("response")["t"].transform("size") + 1).astype(str),
        begins_part=values["begins_part"].map({True: "first of a part", False: "inside a part"}),
    )
    measured = frame[frame["weight"] > 0]
    return [
        (column, kind, (frame[column] == kind).to_numpy(np.float64))
        for column in ("kind", "fifth", "place", "begins_part")
        for kind in sorted(measured[column].unique())
    ]


def noise_share(values: pd.DataFrame, tokens: Tokens, half: int) -> float:
    """The share of the squared difference of two plain values that is the noise of their sampling."""
    own = tokens.weight > 0
    change = (values[["after_a", "after_b"]].sum(axis=1) - values[["before_a", "before_b"]].sum(axis=1)) / (2 * half)
    whole = (tokens.weight * change**2)[own].sum()
    return float(1 - (tokens.weight * tokens.squared)[own].sum() / whole) if whole else float("nan")


def outcome(values: pd.DataFrame, samples: int) -> dict[str, float]:
    """Mean values (shares of right continuations) of measured positions: with the token, and with the other forced."""
    own = values[values["weight"] > 0]
    means = {
        name: float(np.average(own[[f"{name}_a", f"{name}_b"]].sum(axis=1) / samples, weights=own["weight"]))
        for name in ("before", "after", "other")
    }
    return means | {"right": float(values.groupby("response")["right"].first().mean())}


def described(own: Score) -> dict[str, Any]:
    """A score as JSON: intervals as `plain`, an infinity (an amplification without a largest) as null."""
    found = {name: plain(value) if isinstance(value, dict) else value for name, value in asdict(own).items()}
    return {name: None if value == math.inf else value for name, value in found.items()}


def plain(interval: Interval | dict[str, float]) -> dict[str, float]:
    """An interval as JSON: value, low, high."""
    found = asdict(interval) if isinstance(interval, Interval) else interval
    return {"value": found["estimate"], "low": found["low"], "high": found["high"]}
