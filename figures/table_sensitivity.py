"""Sensitivity of Table 2: its three lifts under every convention the paper leaves open (no paper table)."""

from __future__ import annotations

import pandas as pd

from figures import paper, registry
from figures.fig_sensitivity import CONVENTIONS
from figures.tables import Table, cited, estimate, number

SHORT = {
    "waad_peak_entropy": "Entropy at WAAD peaks",
    "receiver_global_fai_cooccurrence": "Receiver and global FAI",
    "fai_follows_or_coincides_waad": "FAI after WAAD",
}


def build(sensitivity: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows of sensitivity.csv (lifts in percent) with the paper's lift, `same_sign` and the seed added."""
    facts = sensitivity.assign(paper_lift=[paper.coupling(name)["lift"] for name in sensitivity["statistic"]])
    facts["same_sign"] = [paper.same_side(row.lift_low, row.lift_high, row.paper_lift) for row in facts.itertuples()]
    return facts.assign(seed=seed)


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """One row a convention; a lift whose interval lies on the paper's side of zero ends with *, on the other with †."""
    marks = {"yes": " *", "opposite": " †"}
    theirs = {SHORT[name]: number(paper.coupling(name)["lift"]) for name in SHORT}
    rows = []
    for key, group in facts.groupby(list(CONVENTIONS), sort=False, dropna=False):
        row = {name.replace("_", " "): str(value) for name, value in zip(CONVENTIONS, key, strict=True)}
        for name, label in SHORT.items():
            cell = group[group["statistic"] == name].to_dict("records")
            lift = [
                estimate(one["lift"], one["lift_low"], one["lift_high"]) + marks.get(one["same_sign"], "")
                for one in cell
            ]
            row[label] = lift[0] if lift else paper.MISSING
        row["n"] = str(int(group["n_problems"].max()))
        row["Same sign, of 3"] = str(int((group["same_sign"] == "yes").sum()))
        rows.append(row)
    blank = dict.fromkeys((name.replace("_", " ") for name in CONVENTIONS), "") | {"peak": "paper"}
    rows.append(blank | theirs | {"n": "70", "Same sign, of 3": ""})
    return pd.DataFrame(rows)


@registry.table("table_sensitivity", needs=("sensitivity", "model", "seed"), section="rhythm", place=6)
def make(sensitivity: pd.DataFrame, model: dict, seed: int) -> Table:
    """The sensitivity table."""
    facts = build(sensitivity, seed)
    note = (
        f"Model {cited(model)}; seed {seed}; lift over random in percent, 95% bootstrap "
        "intervals over n problems. *: the whole interval lies on the paper's side of zero; †: on the other; neither: "
        "it holds zero."
    )
    return Table(
        facts, shown(facts), "Sensitivity of Table 2 to the conventions the paper leaves open: lift in %.", note
    )


def reading(facts: pd.DataFrame) -> str:
    """How many conventions give each statistic the paper's sign, as a Markdown list."""
    lines = []
    for name, statistic in paper.STATISTICS.items():
        rows = facts[facts["statistic"] == name]
        if rows.empty:
            continue
        kept, against = (rows["same_sign"] == "yes").sum(), (rows["same_sign"] == "opposite").sum()
        lines.append(
            f"- **{statistic.label}**: lift from {rows['lift'].min():.1f}% to {rows['lift'].max():.1f}% over "
            f"{len(rows)} conventions (paper: {paper.coupling(name)['lift']:.1f}%); the interval is on the paper's "
            f"side of zero in {kept}, on the other in {against}."
        )
    return "\n".join(lines)
