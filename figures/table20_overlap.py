"""Table 20: how often the peaks of two signals share a position, beside the paper's ranges."""

from __future__ import annotations

import pandas as pd

from attention_rhythm.statistics import bootstrap_interval
from figures import paper, registry
from figures.tables import Table, cited, estimate, number

NAN = float("nan")
PAIRS = {
    "receiver_fai_vs_global_fai": "Receiver-head FAI peaks at global-head FAI peaks",
    "receiver_fai_vs_waad": "Receiver-head FAI peaks at WAAD peaks",
    "global_fai_vs_waad": "Global-head FAI peaks at WAAD peaks",
    "waad_vs_entropy": "WAAD peaks at entropy peaks",
}


def build(peak_overlap: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row a pair: mean over responses, in percent of the first signal's peaks, at the exact, previous and next
    position.

    95% bootstrap intervals over responses; `exact_min` and `exact_max` are the range over responses, which is what the
    paper gives, for its eight. Responses without a peak of the first signal are left out.
    """
    rows = []
    for pair in PAIRS:
        found = peak_overlap[(peak_overlap["pair"] == pair) & peak_overlap["exact"].notna()]
        row = {"pair": pair, "unit": "%"}
        for place in ("exact", "previous", "next"):
            values = found[place]
            made = bootstrap_interval(values.to_numpy(), seed=seed) if len(values) else None
            row |= {place: made.estimate if made else NAN, f"{place}_low": made.low if made else NAN,
                    f"{place}_high": made.high if made else NAN}  # fmt: skip
        low, high = paper.reported()["table20_peak_overlap"][pair]["exact"]
        row |= {
            "exact_min": found["exact"].min(), "exact_max": found["exact"].max(),
            "paper_exact_min": low, "paper_exact_max": high,
            "in_paper_range": "yes" if low <= row["exact"] <= high else "no" if len(found) else paper.MISSING,
            "n_responses": len(found), "n_peaks": int(found["peaks"].sum()), "seed": seed,
        }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text."""
    return pd.DataFrame(
        {
            "Pair": PAIRS[row["pair"]],
            "Exact % [95%]": estimate(row["exact"], row["exact_low"], row["exact_high"]),
            "Exact, range": f"{number(row['exact_min'])} to {number(row['exact_max'])}",
            "Previous % [95%]": estimate(row["previous"], row["previous_low"], row["previous_high"]),
            "Next % [95%]": estimate(row["next"], row["next_low"], row["next_high"]),
            "n": row["n_responses"],
            "Paper: exact, range": f"{number(row['paper_exact_min'])} to {number(row['paper_exact_max'])}",
            "Mean in the paper's range?": row["in_paper_range"],
        }
        for row in facts.to_dict("records")
    )


@registry.table("table20_overlap", needs=("peak_overlap", "model", "seed"), section="rhythm", place=7)
def make(peak_overlap: pd.DataFrame, model: dict, seed: int) -> Table:
    """Table 20."""
    facts = build(peak_overlap, seed)
    note = (
        f"Model {cited(model)}; n = {peak_overlap['response'].nunique()} responses, seed "
        f"{seed}; 95% bootstrap intervals over responses. Percent of the first signal's peaks with a peak of the "
        "second at the same position, the one before, the one after. The paper gives the range over eight responses, "
        "for the same position only."
    )
    return Table(facts, shown(facts), "Table 20. Peaks that share a position, ours and the paper's.", note)
