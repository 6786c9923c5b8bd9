"""Which kinds of tokens carry the value: by class, place, and first or not of a part of the text."""

from __future__ import annotations

import pandas as pd

from figures import registry
from figures.inputs import STUDIES
from figures.table_token_values import rows_of, subject_called
from figures.tables import Table, estimate, number

COLUMNS = {"kind": "class", "fifth": "fifth of the response", "place": "place", "begins_part": "part of the text"}


def build(study: dict) -> pd.DataFrame:
    """One row a subject and kind of tokens: share of the tokens, of the squared value change, lifts."""
    return rows_of(study, "kinds")


def make(study: dict) -> Table:
    """The table of `build`."""
    facts = build(study)
    text = pd.DataFrame(
        {
            "Subject": subject_called(row["subject"]),
            "By": COLUMNS[row["column"]],
            "Tokens": row["kind"],
            "% of tokens": number(100 * row["coverage"]),
            "% of the change [95%]": estimate(*(100 * row[f"share{end}"] for end in ("", "_low", "_high"))),
            "Lift [95%]": estimate(row["lift"], row["lift_low"], row["lift_high"], 2),
            "helps": number(row["helps"], 2),
            "hurts": number(row["hurts"], 2),
            "n": row["responses"],
        }
        for row in facts.to_dict("records")
    )
    note = (
        "Share of the squared value change, and its mean over the mean of all tokens; 95% bootstrap intervals over n "
        "responses. The answer is the response's last mention of its own answer."
    )
    return Table(facts, text, "Token values: which kinds of tokens change the outcome.", note)


for _place, _study in enumerate(STUDIES):
    registry.table(
        f"table_{_study}_kinds", needs=(_study,), section="token-values", place=10 * _place + 5, experiment=_study
    )(make)
