"""Which signals find the tokens that change the outcome: lifts over chance, and what amplifying them is worth."""

from __future__ import annotations

import pandas as pd

from figures import registry
from figures.inputs import STUDIES
from figures.tables import Table, defined, estimate, number

# How a choice of tokens is called, in the order of the table.
NAMES = {
    "random": "random",
    "early": "early in the response",
    "late": "late in the response",
    "entropy": "entropy",
    "surprisal": "surprisal",
    "waad": "WAAD",
    "waad_change": "change of WAAD, Δ",
    "waad_peak": "WAAD peaks",
    "fai": "FAI",
    "fai_peak": "FAI peaks",
    "receiver_fai": "FAI of receiver heads",
    "local_chunk": "local-chunk credit",
    "global_anchor": "global-anchor credit",
    "coupled_rhythm": "coupled-rhythm credit",
    "attention_flow": "attention flow (FlowTracer)",
    "answer_gradient": "gradient of the answer (OAR-G)",
    "masking": "counterfactual masking",
}
READINGS = {"": "", "_row_before": ", row before", "_all_layers": ", all layers"}
READINGS["_all_layers_row_before"] = ", all layers, row before"
SUBJECTS = {"warm": "policy, warm start", "grpo-100": "policy, 100 steps of GRPO", "model": "model"}
INTERVALS = ("share", "lift", "within", "helps", "hurts", "forced", "gain", "against_entropy", "against_entropy_within")


def called(name: str) -> str:
    """A choice in words."""
    if name in NAMES:
        return NAMES[name]
    stem, reading = next((s, r) for s in NAMES for r in READINGS if r and name == f"{s}{r}")
    return NAMES[stem] + READINGS[reading]


def subject_called(name: str) -> str:
    """A subject in words."""
    return SUBJECTS.get(name, name)


def flat(row: dict) -> dict:
    """A row of a result file with its intervals as three columns each: NAME, NAME_low, NAME_high."""
    found: dict = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found[name] = defined(value["value"])
            found |= {f"{name}_{end}": defined(value[end]) for end in ("low", "high")}
        else:
            found[name] = value
    return found


def rows_of(study: dict, part: str) -> pd.DataFrame:
    """The rows of a part of a study's scores (signals, kinds, mechanisms), with their subject and its responses."""
    return pd.DataFrame(
        {"subject": subject, **flat(row), "responses": scores["responses"], "measured": scores["measured"]}
        for subject, scores in study["scores"].items()
        for row in scores[part]
    )


def build(study: dict) -> pd.DataFrame:
    """One row a subject and signal: the score of its choice of tokens (`attention_rhythm.token_value.Score`), and the
    differences of its lifts from those of entropy."""
    return rows_of(study, "signals")


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text, in the order of NAMES, other readings below their signal."""

    def cell(row: dict, name: str, digits: int = 2) -> str:
        return estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], digits)

    order = {name: place for place, name in enumerate(NAMES)}
    rows = sorted(facts.to_dict("records"), key=lambda row: order.get(row["name"], len(order)))
    subjects = list(dict.fromkeys(facts["subject"]))
    return pd.DataFrame(
        {
            "Subject": subject_called(row["subject"]),
            "Tokens": called(row["name"]),
            "% of tokens": number(100 * row["coverage"], 0),
            "Lift [95%]": cell(row, "lift"),
            "within place and kind [95%]": cell(row, "within"),
            "minus entropy's, within [95%]": cell(row, "against_entropy_within"),
            "helps": number(row["helps"], 2),
            "hurts": number(row["hurts"], 2),
            "other token forced": number(row["forced"], 2),
            "% of noise": number(100 * row["noise"], 0),
            "gain at 1.5 [95%]": cell(row, "gain"),
            "n": row["responses"],
        }
        for subject in subjects
        for row in rows
        if row["subject"] == subject
    )


def make(study: dict) -> Table:
    """The table of `build`."""
    facts = build(study)
    settings = study["settings"]
    counted = "; ".join(
        f"{subject_called(name)}: {s['responses']} responses, {s['measured']} positions, "
        f"{100 * s['noise']:.0f}% of plain squared differences are noise"
        for name, s in study["scores"].items()
    )
    note = (
        f"{counted}. K = {settings['samples']}. Lift: mean squared value change of the chosen tokens over that of all; "
        "within place and kind: over that of tokens of the same fifth of the response and the same kind. Helps, hurts: "
        "lift of the change by tokens that raise the value, and that lower it. Other token forced: lift of the change "
        "by the most likely other token. Noise: share of the score function's second moment. Gain: sample efficiency "
        "with these tokens' advantages times 1.5 (docs/token-values.md). 95% bootstrap intervals over responses."
    )
    return Table(facts, shown(facts), "Token values: which signals find the tokens that change the outcome.", note)


for _place, _study in enumerate(STUDIES):
    registry.table(
        f"table_{_study}", needs=(_study,), section="token-values", place=10 * _place + 4, experiment=_study
    )(make)
