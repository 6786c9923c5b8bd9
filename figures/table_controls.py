"""Table 2 when like is compared with like: the lifts within token type, place, and both (no paper table)."""

from __future__ import annotations

import pandas as pd

from figures import paper, registry
from figures.tables import Table, cited, count, estimate, number

CONTROLS = {
    "none": "all tokens",
    "type": "same token",
    "place": "same fifth of the response",
    "both": "same token and fifth",
}
PREDICTED = "waad_peak_entropy_predicted"
PREDICTED_LABEL = "Entropy that the row at a WAAD peak predicts"


def build(controls: pd.DataFrame) -> pd.DataFrame:
    """One row a statistic: lift over chance in percent under each control, with its interval, and the grade."""
    rows = []
    for name, own in controls.groupby("statistic", sort=False):
        by_control = own.set_index("control")
        row = {"statistic": name, "peaks": by_control["peaks"].iloc[0], "density": by_control["density"].iloc[0]}
        for control in CONTROLS:
            row |= {f"{control}_{key}": by_control.loc[control, key] for key in ("lift", "lift_low", "lift_high")}
        row |= {"compared": by_control.loc["both", "compared"], "n_responses": by_control["n_responses"].iloc[0]}
        theirs = paper.coupling(name)["lift"] if name in paper.STATISTICS else 1.0  # the paper says it is high
        ends = (by_control.loc[control, ["lift_low", "lift_high"]].tolist() for control in ("none", "both"))
        row["grade"] = grade(*ends, theirs)
        rows.append(row)
    return pd.DataFrame(rows)


def grade(plain: list[float], controlled: list[float], theirs: float) -> str:
    """holds under controls | holds in the paper's reading only | not shown | opposite, by the ends of two intervals."""
    if paper.same_side(*controlled, theirs) == "yes" == paper.same_side(*plain, theirs):
        return "holds under controls"
    verdict = paper.same_side(*plain, theirs)
    return "holds in the paper's reading only" if verdict == "yes" else verdict


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text."""

    def label(name: str) -> str:
        return PREDICTED_LABEL if name == PREDICTED else paper.STATISTICS[name].label

    return pd.DataFrame(
        {
            "Statistic": label(row["statistic"]),
            **{
                f"Lift %, {words}": estimate(*(row[f"{control}_{key}"] for key in ("lift", "lift_low", "lift_high")))
                for control, words in CONTROLS.items()
            },
            "Peaks": count(row["peaks"]),
            "% of tokens": number(row["density"]),
            "% compared": number(row["compared"], 0),
            "n": count(row["n_responses"]),
            "Grade": row["grade"],
        }
        for row in facts.to_dict("records")
    )


@registry.table("table_controls", needs=("controls", "model", "seed"), section="rhythm", place=8)
def make(controls: pd.DataFrame, model: dict, seed: int) -> Table:
    """The table of `build`."""
    facts = build(controls)
    note = (
        f"Model {cited(model)}; n responses, seed {seed}; 95% bootstrap intervals over responses. What is observed at "
        "the peaks over what tokens of the same id, of the same fifth of the response, or both, have in other "
        "responses. % compared: peaks whose token is in the same fifth of another response. The last row has the "
        "entropy that the peak's own row predicts, that of the next token; in Table 2 entropy is of the row before. "
        "Holds under controls: the interval with both lies on the paper's side of 0; holds in the paper's reading "
        "only: the one over all tokens does."
    )
    return Table(facts, shown(facts), "Table 2 when like is compared with like.", note)
