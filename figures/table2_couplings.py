"""Table 2: how WAAD, FAI and entropy coincide, beside the paper's numbers."""

from __future__ import annotations

import pandas as pd

from figures import paper, registry
from figures.tables import Table, cited, count, defined, ends, estimate, interval, number, settings


def build(couplings: dict, seed: int, layers: tuple[str, ...] = ("all",)) -> pd.DataFrame:
    """One row a statistic and layer range. Entropies in nats, rates and lifts in percent; 95% intervals over problems.

    A statistic that couplings.json lacks keeps its row, with undefined numbers beside the paper's.
    """
    found = {(row["name"], row["layers"]): row for row in couplings["statistics"]}
    rows = []
    for scope in layers:
        for name, statistic in paper.STATISTICS.items():
            ours, theirs = found.get((name, scope), {}), paper.coupling(name, scope)
            row = {"statistic": name, "layers": scope, "unit": statistic.unit}
            for key in ("random", "observed", "lift"):
                low, high = ends(ours.get(f"{key}_ci"))
                row |= {
                    key: defined(ours.get(key)),
                    f"{key}_low": low,
                    f"{key}_high": high,
                    f"paper_{key}": theirs[key],
                }
            row |= {
                "p_value": defined(ours.get("p_value")),
                "same_sign": paper.same_side(row["lift_low"], row["lift_high"], theirs["lift"]),
                "n_problems": defined(ours.get("n_problems")),
                "n_tokens": couplings["n_tokens"],
                "seed": seed,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text."""
    rows = []
    for row in facts.to_dict("records"):
        statistic = paper.STATISTICS[row["statistic"]]
        digits = statistic.digits
        rows.append(
            {
                "Statistic": f"{statistic.label} ({statistic.unit})",
                "Layers": row["layers"],
                "Random": number(row["random"], digits),
                "Observed [95%]": estimate(row["observed"], row["observed_low"], row["observed_high"], digits),
                "Lift % [95%]": estimate(row["lift"], row["lift_low"], row["lift_high"]),
                "n": count(row["n_problems"]),
                "Paper: random": number(row["paper_random"], digits),
                "observed": number(row["paper_observed"], digits),
                "lift %": number(row["paper_lift"]),
                "Same sign?": row["same_sign"],
            }
        )
    return pd.DataFrame(rows)


def note(couplings: dict, model: dict, seed: int) -> str:
    """What a reader needs to judge the numbers."""
    return (
        f"Model {cited(model)}; n = {couplings['n_problems']} problems, "
        f"{couplings['n_tokens']} response tokens, seed {seed}; 95% bootstrap intervals over problems. Conventions: "
        f"{settings(couplings['settings'])}. Same sign: yes where the whole interval of our lift lies on the side of "
        "zero that the paper's lift does, opposite where it lies on the other, not shown where it holds zero."
    )


@registry.table("table2_couplings", needs=("couplings", "model", "seed"), section="rhythm", place=3)
def make(couplings: dict, model: dict, seed: int) -> Table:
    """Table 2."""
    facts = build(couplings, seed)
    title = "Table 2. Coupling of WAAD, FAI and entropy, ours and the paper's."
    return Table(facts, shown(facts).drop(columns="Layers"), title, note(couplings, model, seed))


def reading(facts: pd.DataFrame) -> str:
    """The rows of `build` in words, as a Markdown list; every word follows from the numbers."""
    lines = []
    for row in facts.to_dict("records"):
        statistic = paper.STATISTICS[row["statistic"]]
        unit, digits = "%" if statistic.unit == "%" else f" {statistic.unit}", statistic.digits
        verdict = {
            "yes": "The interval lies on the paper's side of zero.",
            "opposite": "The interval lies on the **other** side of zero than the paper's lift.",
            "not shown": "The interval holds zero: this run does not show the effect.",
            paper.MISSING: "There is no interval to judge by.",
        }[row["same_sign"]]
        lines.append(
            f"- **{statistic.label}**: {number(row['observed'], digits)}{unit} ({statistic.observed}) against "
            f"{number(row['random'], digits)}{unit} ({statistic.random}), a lift of {number(row['lift'])}% "
            f"{interval(row['lift_low'], row['lift_high'])}; the paper has {number(row['paper_lift'])}%. {verdict}"
        )
    return "\n".join(lines)
