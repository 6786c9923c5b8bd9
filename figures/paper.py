"""The numbers that the paper reports (paper.yaml), and how ours are held against them.

paper.yaml carries facts of arXiv:2510.13554 only; where its two versions differ, the later one. Nothing of ours is in
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

MISSING = "—"


@dataclass(frozen=True)
class Statistic:
    """A coupling statistic of Table 2: its name, unit, and what `random` and `observed` are."""

    label: str
    short: str
    unit: str
    digits: int
    random: str
    observed: str


STATISTICS = {
    "waad_peak_entropy": Statistic(
        "Entropy at WAAD peaks", "Entropy at\nWAAD peaks", "nats", 3, "all response tokens", "tokens at WAAD peaks"
    ),
    "receiver_global_fai_cooccurrence": Statistic(
        "Receiver-head peaks that are global FAI peaks",
        "Receiver peaks that\nare global FAI peaks",
        "%",
        1,
        "density of global FAI peaks",
        "share of receiver-head FAI peaks",
    ),
    "fai_follows_or_coincides_waad": Statistic(
        "FAI peaks at or right after a WAAD peak",
        "FAI peaks at or right\nafter a WAAD peak",
        "%",
        1,
        "the same, FAI peaks shuffled",
        "share of FAI peaks",
    ),
}


@lru_cache
def reported() -> dict:
    """paper.yaml, as it stands."""
    return yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))


def coupling(statistic: str, layers: str = "all") -> dict[str, float]:
    """`random`, `observed` (the statistic's unit), `lift` (percent): Table 2 for `all`, Table 10 for a layer range."""
    if layers == "all":
        return reported()["table2_couplings"][statistic]
    return dict(
        zip(("random", "observed", "lift"), reported()["table10_couplings_by_layer"][statistic][layers], strict=True)
    )


def average(*path: str | int) -> float:
    """The mean over the five mathematics benchmarks, percent: the last number of a row of paper.yaml, by its keys."""
    row = reported()
    for key in path:
        row = row[key]
    return float(row[-1])


def same_side(low: float, high: float, paper: float, null: float = 0.0) -> str:
    """Is the effect on the paper's side of `null`? Decided by our interval [low, high] alone.

    `yes`: the whole interval lies on the paper's side. `opposite`: it lies wholly on the other. `not shown`: it holds
    the null. `—`: there is no interval, or no number of the paper to compare with.
    """
    if any(value is None or math.isnan(value) for value in (low, high, paper)) or paper == null:
        return MISSING
    if low <= null <= high:
        return "not shown"
    return "yes" if (low > null) == (paper > null) else "opposite"
