"""The paper's mechanisms against token values: do these tokens hold more value than others of their place and kind?"""

from __future__ import annotations

import pandas as pd

from figures import registry
from figures.inputs import STUDIES
from figures.table_token_values import rows_of, subject_called
from figures.tables import Table, estimate, number


def build(study: dict) -> pd.DataFrame:
    """One row a subject and mechanism: lift within place and kind, verdict, and what would have been seen."""
    return rows_of(study, "mechanisms")


def make(study: dict) -> Table:
    """The table of `build`."""
    facts = build(study)
    text = pd.DataFrame(
        {
            "Subject": subject_called(row["subject"]),
            "Mechanism": row["name"],
            "Lift within place and kind [95%]": estimate(row["within"], row["within_low"], row["within_high"], 2),
            "Do they hold more value?": row["verdict"],
            "Would have been seen": f"1 ± {number(row['visible_effect'], 2)}",
            "n": row["responses"],
        }
        for row in facts.to_dict("records")
    )
    note = (
        "Mean squared value change of these tokens over that of tokens of the same fifth of the response and kind; 95% "
        "bootstrap interval over n responses. Yes: it lies above 1; no, less: below. Would have been seen: the "
        "distance from 1 that four of five such studies find."
    )
    return Table(facts, text, "The paper's mechanisms against the tokens that change the outcome.", note)


for _place, _study in enumerate(STUDIES):
    registry.table(
        f"table_{_study}_mechanisms", needs=(_study,), section="token-values", place=10 * _place + 3, experiment=_study
    )(make)
