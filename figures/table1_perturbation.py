"""Table 1: how much of a continuation survives a forced token, at high and at low FAI, beside the paper's numbers."""

from __future__ import annotations

import pandas as pd

from figures import paper, registry
from figures.tables import Table, cited, count, defined, ends, estimate, number, settings

NAN = float("nan")
GROUPS = {"top": "high FAI", "bottom": "low FAI", "matched": "low FAI, same place"}
CLASSES = {"word": "words", "punctuation": "punctuation"}
COMPARISONS = {"top_vs_bottom": "bottom", "top_vs_matched": "matched"}


def build(perturbation: dict, seed: int) -> pd.DataFrame:
    """One row a quantity: Jaccard (0 to 1, Eq. 11) by group, Pr(top < other) in percent, differences of Jaccard.

    `null` is the value of no effect: 50 percent, or a difference of 0; a mean has none. The paper gives no difference
    of its own: the one beside ours is that of its two means.
    """
    reported = paper.reported()["table1_perturbation"]
    means = {"top": reported["jaccard_top_k_fai"], "bottom": reported["jaccard_bottom_k_fai"]}
    rows = [_mean("all", group, perturbation["groups"].get(group), means.get(group, NAN)) for group in GROUPS]
    for row in perturbation["comparisons"]:
        other = COMPARISONS[row["name"]]
        theirs = (reported["pr_top_lt_bottom"], means["top"] - means["bottom"]) if other == "bottom" else (NAN, NAN)
        # Beside the matched control the paper has no number; its claim, fewer words kept at high FAI, still has a side.
        side = (reported["pr_top_lt_bottom"], means["top"] - means["bottom"])
        for measure, key, null, unit, number_, claim in (
            ("pr_less", "ci", 50.0, "%", theirs[0], side[0]),
            ("difference", "difference_ci", 0.0, "Jaccard", theirs[1], side[1]),
        ):
            low, high = ends(row[key])
            rows.append(
                {"tokens": "all", "measure": measure, "group": "top", "against": other, "unit": unit,
                 "value": defined(row[measure]), "low": low, "high": high, "null": null, "paper": number_,
                 "same_sign": paper.same_side(low, high, claim, null), "p_value": defined(row["p_value"]),
                 "n_problems": row["problems"], "n_positions": NAN}
            )  # fmt: skip
    for name in CLASSES:
        groups = perturbation["by_token_class"].get(name, {})
        rows += [_mean(name, group, groups[group], NAN) for group in GROUPS if group in groups]
    return pd.DataFrame(rows).assign(seed=seed)


def _mean(tokens: str, group: str, ours: dict | None, reported: float) -> dict:
    ours = ours or {"jaccard": None, "ci": None, "problems": 0, "positions": 0}
    low, high = ends(ours["ci"])
    return {
        "tokens": tokens, "measure": "mean", "group": group, "against": "", "unit": "Jaccard",
        "value": defined(ours["jaccard"]), "low": low, "high": high, "null": NAN, "paper": reported,
        "same_sign": paper.MISSING, "p_value": NAN, "n_problems": ours["problems"], "n_positions": ours["positions"],
    }  # fmt: skip


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text."""
    rows = []
    for row in facts.to_dict("records"):
        digits = 1 if row["unit"] == "%" else 3
        rows.append(
            {
                "Quantity": label(row),
                "Ours [95%]": estimate(row["value"], row["low"], row["high"], digits),
                "Problems": count(row["n_problems"]),
                "Positions": count(row["n_positions"]),
                "p": "<0.001" if row["p_value"] < 0.001 else number(row["p_value"], 3),
                "Paper": number(row["paper"], digits),
                "Same sign?": row["same_sign"],
            }
        )
    return pd.DataFrame(rows)


def label(row: dict) -> str:
    """A quantity as the table names it."""
    if row["measure"] == "pr_less":
        return f"Pr(high FAI < {GROUPS[row['against']]}), % of problems"
    if row["measure"] == "difference":
        return f"Difference in Jaccard, high FAI minus {GROUPS[row['against']]}"
    return f"Jaccard, {GROUPS[row['group']]}" + (f", {CLASSES[row['tokens']]} only" if row["tokens"] in CLASSES else "")


@registry.table("table1_perturbation", needs=("perturbation", "model", "seed"), section="perturbation", place=2)
def make(perturbation: dict, model: dict, seed: int) -> Table:
    """Table 1."""
    facts = build(perturbation, seed)
    note = (
        f"Model {cited(model)}; n = {perturbation['groups']['top']['problems']} problems, "
        f"seed {seed}; 95% bootstrap intervals over problems. Settings: {settings(perturbation['settings'])}. Low FAI, "
        "same place: low-FAI positions from the same part of the response as the high ones, since an early change "
        "alters more text by itself. Same sign: yes where the whole interval lies on the side of no effect (50%, or "
        "0) that the paper claims, opposite where it lies on the other, not shown where it holds no effect."
    )
    return Table(facts, shown(facts), "Table 1. Forced tokens at high and at low FAI, ours and the paper's.", note)


def reading(facts: pd.DataFrame) -> str:
    """The comparisons of `build` in words, as a Markdown list; every word follows from the numbers."""
    words = {
        "yes": "as the paper has it: fewer words are kept at high FAI, and the interval excludes no effect",
        "opposite": "**against** the paper: more words are kept at high FAI, and the interval excludes no effect",
        "not shown": "the interval holds no effect, so this run does not show one",
        paper.MISSING: "there is no interval to judge by",
    }
    lines = []
    for row in facts[facts["measure"] != "mean"].to_dict("records"):
        digits = 1 if row["unit"] == "%" else 3
        theirs = "" if row["paper"] != row["paper"] else f" (paper: {number(row['paper'], digits)})"
        ours = estimate(row["value"], row["low"], row["high"], digits)
        lines.append(f"- **{label(row)}**: {ours}{theirs}, {words[row['same_sign']]}.")
    return "\n".join(lines)
