"""How much of the credit moves to other tokens under another answer to what the paper leaves open (no paper table)."""

from __future__ import annotations

import pandas as pd

from attention_rhythm.statistics import Interval, bootstrap_ratio
from figures import registry
from figures.tables import Table, cited, estimate, number

UNDEFINED = Interval(*[float("nan")] * 3, confidence=0.95)
NAMES = {
    "default": "the defaults",
    "row": "row that belongs to a token",
    "layers": "layers that are read",
    "num_layers": "how many of the middle third",
    "head_fraction": "share of heads, local and global",
    "horizon": "rows that count for FAI",
    "topq": "TopQ",
    "undefined_fai": "FAI where no row is left",
    "tau_waad": "tau_waad, quantile",
    "tau_delta": "tau_delta, quantile",
    "neighborhood": "k of Eq. 18",
    "intro": "introductory token",
    "alpha": "alpha of Eq. 19",
    "strategy": "another strategy",
}


def build(sensitivity: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row a choice: `stays`, the share of the defaults' credit that is on the same tokens under it, in percent with
    a 95% bootstrap interval over responses (NaN where none of them has credit); `credited`, percent of tokens with
    gamma other than 1; `gamma`, its mean over tokens."""
    rows = []
    for _, group in sensitivity.groupby("choice"):
        any_credit = group["default"].sum() > 0
        stays = bootstrap_ratio(group["stays"], group["default"], seed=seed) if any_credit else UNDEFINED
        tokens = group["tokens"].sum()
        rows.append(
            {
                "name": group["name"].iloc[0],
                "value": group["value"].iloc[0],
                "stays": 100 * stays.estimate,
                "stays_low": 100 * stays.low,
                "stays_high": 100 * stays.high,
                "credited": 100 * group["credited"].sum() / tokens,
                "gamma": 1 + group["extra"].sum() / tokens,
                "n_responses": len(group),
                "seed": seed,
            }
        )
    return pd.DataFrame(rows)


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text."""
    return pd.DataFrame(
        {
            "Choice": NAMES[row["name"]],
            "Value": "" if pd.isna(row["value"]) else str(row["value"]).replace("_", " "),
            "Credit that stays, % [95%]": estimate(row["stays"], row["stays_low"], row["stays_high"]),
            "γ ≠ 1, % of tokens": number(row["credited"]),
            "Mean γ": number(row["gamma"], 3),
            "n": row["n_responses"],
        }
        for row in facts.to_dict("records")
    )


@registry.table("table_credit_sensitivity", needs=("credit_sensitivity", "model", "seed"), section="training", place=20)
def make(sensitivity: pd.DataFrame, model: dict, seed: int) -> Table:
    """The table of `build`."""
    facts = build(sensitivity, seed)
    note = (
        f"Model {cited(model)}; n responses, seed {seed}; 95% bootstrap intervals over "
        "responses. One choice is changed at a time, and γ of the same responses is made anew. Credit that "
        "stays: with e = γ - 1, the sum over tokens of the smaller e of the two, over the sum of the defaults' e. "
        "Random credit says what chance gives."
    )
    return Table(facts, shown(facts), "Coupled-rhythm credit under the choices that the paper leaves open.", note)
