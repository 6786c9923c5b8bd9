"""Positions of high FAI, of low FAI, and of low FAI but alike in place and kind: how they are chosen and compared.

What is compared is a number a position, higher where less changes: words that a continuation keeps (perturbation.py),
right answers that stay right (correctness.py). The paper's claim is that it is lower at high FAI (Sec. 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attention_rhythm.statistics import bootstrap_interval, mcnemar_exact, sign_flip_test, visible_effect

GROUPS = ("top", "bottom", "matched")
PARTS = 5  # a response is cut into this many parts of equal length; matched positions come from the same part


def choose_positions(fai: np.ndarray, kinds: Sequence[str], count: int, eligible: np.ndarray) -> dict[str, list[int]]:
    """Positions of each group, from FAI (n,), kinds of tokens (n,), and a mask (n,) of those that may be chosen.

    top, bottom: the `count` highest and lowest defined values, ties to the earlier. matched: for each top position, the
    lowest of its kind in the same part (of PARTS) of the response that is in no group yet; none where there is none.
    """
    where = np.flatnonzero(eligible & ~np.isnan(fai))
    ranked = where[np.argsort(fai[where], kind="stable")]
    count = min(count, len(ranked) // 2)
    top = sorted(where[np.argsort(-fai[where], kind="stable")][:count].tolist())
    bottom = sorted([p for p in ranked.tolist() if p not in top][:count])
    part = np.arange(len(fai)) * PARTS // max(len(fai), 1)
    taken, matched = {*top, *bottom}, []
    for position in top:
        alike = (p for p in ranked.tolist() if part[p] == part[position] and kinds[p] == kinds[position])
        control = next((p for p in alike if p not in taken), None)
        if control is not None:
            taken.add(control)
            matched.append(control)
    return {"top": top, "bottom": bottom, "matched": sorted(matched)}


def compared(frame: pd.DataFrame, value: str, seed: int) -> dict[str, Any]:
    """Means of each group, `groups`, and top against each other group, `comparisons`, with 95% bootstrap intervals over
    problems.

    frame: a row a measurement, with problem, group, position, relative_position and the column `value`. A problem's
    value is the mean over its positions of the mean of a position's rows. `pr_less`: percent of problems where it is
    lower at the top positions (ties count as not lower), `pr_p_value` its two-sided sign test (ties left out);
    `difference`: top - other, `p_value` its two-sided sign-flip test over problems, `visible` the size that four of
    five such studies would see.
    """
    return {"groups": _groups(frame, value, seed), "comparisons": _comparisons(frame, value, seed)}


def _per_problem(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Problems x groups: the mean over positions of the mean over a position's rows."""
    positions = frame.groupby(["problem", "group", "position"])[value].mean()
    return positions.groupby(["problem", "group"]).mean().unstack()


def _comparisons(frame: pd.DataFrame, value: str, seed: int) -> list[dict[str, Any]]:
    per_problem = _per_problem(frame, value)
    comparisons = []
    for other in ("bottom", "matched"):
        if not {"top", other} <= set(per_problem.columns):
            continue
        pair = per_problem[["top", other]].dropna()
        if pair.empty:
            continue
        less = bootstrap_interval(100.0 * (pair["top"] < pair[other]), seed=seed)
        difference = pair["top"] - pair[other]
        interval = bootstrap_interval(difference, seed=seed)
        comparisons.append(
            {
                "name": f"top_vs_{other}",
                "pr_less": less.estimate,
                "ci": [less.low, less.high],
                "pr_p_value": mcnemar_exact(int((difference < 0).sum()), int((difference > 0).sum())),
                "difference": interval.estimate,
                "difference_ci": [interval.low, interval.high],
                "p_value": sign_flip_test(difference, seed=seed),
                "visible": visible_effect(interval),
                "problems": len(pair),
            }
        )
    return comparisons


def _groups(frame: pd.DataFrame, value: str, seed: int) -> dict[str, dict[str, Any]]:
    result = {}
    per_problem = _per_problem(frame, value) if len(frame) else pd.DataFrame()
    for name in GROUPS:
        values = per_problem[name].dropna() if name in per_problem else pd.Series(dtype=float)
        if values.empty:
            continue
        interval = bootstrap_interval(values, seed=seed)
        own = frame[frame["group"] == name]
        result[name] = {
            value: interval.estimate,
            "ci": [interval.low, interval.high],
            "problems": len(values),
            "positions": len(own[["problem", "position"]].drop_duplicates()),
            "relative_position": float(own["relative_position"].mean()),
        }
    return result
