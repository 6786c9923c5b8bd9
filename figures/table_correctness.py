"""Does a right answer become wrong more often where another token is forced at high FAI? (no paper table)"""

from __future__ import annotations

import pandas as pd

from figures import registry
from figures.table1_perturbation import COMPARISONS, GROUPS
from figures.table_knockout import verdict
from figures.tables import Table, cited, count, defined, ends, estimate, number, settings


def build(correctness: dict) -> pd.DataFrame:
    """One row a group, then one a comparison. `own`, `other`: percent of continuations that are right with the
    response's own token and with another in its place; `lost`: the first less the second, in points, with its 95%
    interval over problems."""
    rows = []
    for group, found in correctness["groups"].items():
        low, high = ends(found["ci"])
        rows.append(
            {"group": group, "against": "", "own": 100 * found["own"], "other": 100 * found["other"],
             "lost": -100 * found["stays"], "low": -100 * high, "high": -100 * low, "p_value": float("nan"),
             "visible": float("nan"), "n_problems": found["problems"], "n_positions": found["positions"]}
        )  # fmt: skip
    for found in correctness["comparisons"]:
        low, high = ends(found["difference_ci"])
        rows.append(
            {"group": "top", "against": COMPARISONS[found["name"]], "own": float("nan"), "other": float("nan"),
             "lost": -100 * found["difference"], "low": -100 * high, "high": -100 * low, "p_value": found["p_value"],
             "visible": 100 * found["visible"], "n_problems": found["problems"], "n_positions": float("nan")}
        )  # fmt: skip
    return pd.DataFrame(rows)


@registry.table(
    "table_correctness",
    needs=("correctness", "model", "seed"),
    section="perturbation",
    place=8,
    experiment="correctness",
)
def make(correctness: dict, model: dict, seed: int) -> Table:
    """The table of `build`."""
    facts = build(correctness)
    text = pd.DataFrame(
        {
            "Positions": f"high FAI minus {GROUPS[row['against']]}" if row["against"] else GROUPS[row["group"]],
            "Right, own token (%)": number(row["own"], 1),
            "Right, another token (%)": number(row["other"], 1),
            "Lost, points [95%]": estimate(row["lost"], row["low"], row["high"], 1),
            "Problems": count(row["n_problems"]),
            "p": number(defined(row["p_value"]), 3),
            "Would have been seen": number(row["visible"], 1),
            "More are lost?": verdict(row["low"], row["high"]) if row["against"] else "",
        }
        for row in facts.to_dict("records")
    )
    note = (
        f"Model {cited(model)}; {correctness['responses']} of {correctness['of']} greedy responses are right and "
        f"studied, seed {seed}. At each position {correctness['settings']['samples']} continuations with the "
        "response's own token, and as many with the most likely other one; 95% bootstrap intervals over problems, p by "
        "a sign-flip test. Would have been seen: what four of five such studies find. "
        f"Settings: {settings(correctness['settings'])}."
    )
    return Table(facts, text, "Answers that are lost when another token is forced, at high and at low FAI.", note)
