"""Are high-FAI tokens missed when later tokens cannot attend to them? (no paper table)"""

from __future__ import annotations

import pandas as pd

from figures import registry
from figures.tables import Table, cited, count, defined, estimate, number

WAYS = {
    "all heads": "not seen, all heads",
    "global heads": "not seen, global heads",
    "moved": "weight moved to the punctuation before",
}
MEASURES = ("kl", "rest", "answer")


def build(knockout: dict) -> pd.DataFrame:
    """One row a way and class: of each measure the means of high-FAI positions and of controls, in nats, and their
    difference over pairs with its 95% interval over responses."""
    rows = []
    for found in knockout["pairs"]:
        row = {name: found.get(name) for name in ("way", "class", "mass_ratio", "fai_ratio", "pairs", "responses")}
        for measure in MEASURES:
            own = found.get(measure, {})
            row |= {f"{measure}_{key}": defined(own.get(key)) for key in ("high", "control", "difference", "p_value")}
            low, high = own.get("ci") or (None, None)
            row |= {f"{measure}_low": defined(low), f"{measure}_upper": defined(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def verdict(low: float, high: float) -> str:
    """Is it more at high FAI than at its control: yes | no, less | not shown, by the interval of the difference."""
    return "yes" if low > 0 else "no, less" if high < 0 else "not shown"


@registry.table(
    "table_knockout", needs=("knockout", "model", "seed"), section="perturbation", place=9, experiment="knockout"
)
def make(knockout: dict, model: dict, seed: int) -> Table:
    """The table of `build`."""
    facts = build(knockout)
    text = pd.DataFrame(
        {
            "Knock-out": WAYS[row["way"]],
            "Class": row["class"],
            "KL, high FAI": number(row["kl_high"], 4),
            "control": number(row["kl_control"], 4),
            "difference [95%]": estimate(row["kl_difference"], row["kl_low"], row["kl_upper"], 4),
            "log p of the rest, difference [95%]": estimate(
                row["rest_difference"], row["rest_low"], row["rest_upper"], 3
            ),
            "of the answer [95%]": estimate(row["answer_difference"], row["answer_low"], row["answer_upper"], 3),
            "attention lost, ratio": number(row["mass_ratio"], 2),
            "FAI, ratio": number(row["fai_ratio"], 1),
            "pairs": count(row["pairs"]),
            "n": count(row["responses"]),
            "Missed more?": verdict(row["kl_low"], row["kl_upper"]),
        }
        for row in facts.to_dict("records")
    )
    settings = knockout["settings"]
    note = (
        f"Model {cited(model)}; n responses, seed {seed}. Later tokens do not attend to one position; mean KL of their "
        f"next-token distributions over the next {settings['distances']} tokens, and change of the log-probability of "
        "all that follows and of the response's own answer, in nats. A control is a position of low FAI in the same "
        f"response, class and fifth, with at most {settings['mass_ratio']:g} times or 1/{settings['mass_ratio']:g} of "
        "the attention received. 95% bootstrap intervals over responses."
    )
    return Table(facts, text, "Attention knock-out: high-FAI positions against controls.", note)
