"""Table 1: how much of a continuation survives a forced token, at high and at low FAI, beside the paper's numbers."""

from __future__ import annotations

import pandas as pd

from figures import paper, registry
from figures.tables import Table, cited, count, defined, ends, estimate, number, settings

NAN = float("nan")
GROUPS = {"top": "high FAI", "bottom": "low FAI", "matched": "low FAI, same place and kind"}
ALL = "all"
COMPARISONS = {"top_vs_bottom": "bottom", "top_vs_matched": "matched"}


def build(perturbation: dict, seed: int) -> pd.DataFrame:
    """One row a quantity: Jaccard (0 to 1, Eq. 11) by group, Pr(top < other) in percent, differences of Jaccard.

    All tokens first, then those of each kind. `null` is the value of no effect: 50 percent, or a difference of 0; a
    mean has none. The paper gives no difference of its own: the one beside ours is that of its two means, and it has
    no kinds.
    """
    rows = _rows(ALL, perturbation)
    for kind, found in perturbation["by_kind"].items():
        rows += _rows(kind, found)
    return pd.DataFrame(rows).assign(seed=seed)


def _rows(tokens: str, found: dict) -> list[dict]:
    reported = paper.reported()["table1_perturbation"]
    means = {"top": reported["jaccard_top_k_fai"], "bottom": reported["jaccard_bottom_k_fai"]}
    cited_means = means if tokens == ALL else {}
    groups = [group for group in GROUPS if tokens == ALL or group in found["groups"]]
    rows = [_mean(tokens, group, found["groups"].get(group), cited_means.get(group, NAN)) for group in groups]
    for row in found["comparisons"]:
        other = COMPARISONS[row["name"]]
        # Beside the matched control, and of one kind, the paper has no number; its claim still has a side: fewer words
        # kept at high FAI.
        side = (reported["pr_top_lt_bottom"], means["top"] - means["bottom"])
        theirs = side if tokens == ALL and other == "bottom" else (NAN, NAN)
        for measure, key, p_value, visible, null, unit, number_, claim in (
            ("pr_less", "ci", "pr_p_value", NAN, 50.0, "%", theirs[0], side[0]),
            ("difference", "difference_ci", "p_value", row["visible"], 0.0, "Jaccard", theirs[1], side[1]),
        ):
            low, high = ends(row[key])
            rows.append(
                {"tokens": tokens, "measure": measure, "group": "top", "against": other, "unit": unit,
                 "value": defined(row[measure]), "low": low, "high": high, "null": null, "paper": number_,
                 "same_sign": paper.same_side(low, high, claim, null), "p_value": defined(row[p_value]),
                 "visible": visible, "n_problems": row["problems"], "n_positions": NAN}
            )  # fmt: skip
    return rows


def _mean(tokens: str, group: str, ours: dict | None, reported: float) -> dict:
    ours = ours or {"jaccard": None, "ci": None, "problems": 0, "positions": 0}
    low, high = ends(ours["ci"])
    return {
        "tokens": tokens, "measure": "mean", "group": group, "against": "", "unit": "Jaccard",
        "value": defined(ours["jaccard"]), "low": low, "high": high, "null": NAN, "paper": reported,
        "same_sign": paper.MISSING, "p_value": NAN, "visible": NAN, "n_problems": ours["problems"],
        "n_positions": ours["positions"],
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
                "Would have been seen": number(row["visible"], 3),
                "Paper": number(row["paper"], digits),
                "Same sign?": row["same_sign"],
            }
        )
    return pd.DataFrame(rows)


def label(row: dict) -> str:
    """A quantity as the table names it."""
    only = "" if row["tokens"] == ALL else f" ({row['tokens']} tokens only)"
    if row["measure"] == "pr_less":
        return f"Pr(high FAI < {GROUPS[row['against']]}), % of problems{only}"
    if row["measure"] == "difference":
        return f"Difference in Jaccard, high FAI minus {GROUPS[row['against']]}{only}"
    return f"Jaccard, {GROUPS[row['group']]}{only}"


@registry.table("table1_perturbation", needs=("perturbation", "model", "seed"), section="perturbation", place=2)
def make(perturbation: dict, model: dict, seed: int) -> Table:
    """Table 1."""
    facts = build(perturbation, seed)
    note = (
        f"Model {cited(model)}; n = {perturbation['groups']['top']['problems']} problems, "
        f"seed {seed}; 95% bootstrap intervals over problems. Settings: {settings(perturbation['settings'])}. Low FAI, "
        "same place and kind: low-FAI positions of the same kind (word, number, punctuation, space) from the same "
        "fifth of the response, since an early change alters more text by itself and a comma is forced to other things "
        "than a word. p: a sign test for Pr(...), a sign-flip test for differences. Would have been seen: the size of "
        "a difference that four of five such studies find. Same sign: yes where the whole interval lies on the side of "
        "no effect (50%, or 0) that the paper claims, opposite where it lies on the other, not shown where it holds no "
        "effect."
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
    whole = facts["tokens"] == ALL
    controlled = (facts["measure"] == "difference") & (facts["against"] == "matched")
    for row in facts[(facts["measure"] != "mean") & (whole | controlled)].to_dict("records"):
        digits = 1 if row["unit"] == "%" else 3
        theirs = "" if row["paper"] != row["paper"] else f" (paper: {number(row['paper'], digits)})"
        ours = estimate(row["value"], row["low"], row["high"], digits)
        lines.append(f"- **{label(row)}**: {ours}{theirs}, {words[row['same_sign']]}.")
    return "\n".join(lines)
