"""Section 5 with power: what each strategy, reading, dose and control gains over GRPO and over random credit."""

from __future__ import annotations

import pandas as pd

from figures import registry
from figures.accuracy import LABELS
from figures.tables import Table, estimate, number

DOSE = "_x4"
SECONDARY = {"sampled": "accuracy, points", "steps_to_25": "steps to 25%", "length": "tokens", "entropy": "nats"}


def arm_called(variant: str) -> str:
    """A variant in words, without its dose."""
    return LABELS[variant.removesuffix(DOSE)]


def dose_of(variant: str, recipe: dict) -> float | None:
    """gamma_amp of a variant; None for GRPO, which has no dose."""
    if variant == "grpo":
        return None
    return 4.0 if variant.endswith(DOSE) else float(recipe["credit"]["amplification"])


def build(power: dict) -> pd.DataFrame:
    """One row an arm and endpoint: its mean, and its contrasts with GRPO and with random credit of its dose."""
    contrasts = {(c["endpoint"], c["family"], c["variant"]): c for c in power["contrasts"]}
    rows = []
    for arm in power["arms"]:
        variant = arm["variant"]
        endpoints = [name for name, value in arm.items() if isinstance(value, dict)]
        for endpoint in endpoints:
            row = {"variant": variant, "dose": dose_of(variant, power["recipe"]), "endpoint": endpoint}
            row |= {"seeds": arm["seeds"], "mean": arm[endpoint]["mean"]}
            row |= dict(zip(("mean_low", "mean_high"), arm[endpoint]["ci"], strict=True))
            for family in ("grpo", "random"):
                own = contrasts.get((endpoint, family, variant), {})
                row |= {
                    f"{family}_{key}": own.get(key)
                    for key in ("difference", "low", "high", "p_value", "p_holm", "detectable", "verdict")
                }
            rows.append(row)
    return pd.DataFrame(rows)


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: the primary endpoint against both baselines, the others against GRPO."""
    by_endpoint = {name: own.set_index("variant") for name, own in facts.groupby("endpoint")}
    rows = []
    for variant, row in by_endpoint["reward"].iterrows():
        cells = {
            "Arm": arm_called(variant),
            "Dose": "—" if pd.isna(row["dose"]) else f"{row['dose']:g}",
            "Seeds": row["seeds"],
            "Mean reward, %": estimate(row["mean"], row["mean_low"], row["mean_high"]),
        }
        for family, label in (("grpo", "GRPO"), ("random", "random")):
            ends = (row[f"{family}_{end}"] for end in ("difference", "low", "high"))
            cells[f"minus {label}'s"] = estimate(*(_defined(end) for end in ends), digits=2)
            cells[f"Holm's p, {label}"] = number(_defined(row[f"{family}_p_holm"]), 3)
            verdict = row[f"{family}_verdict"]
            cells[f"against {label}"] = "—" if pd.isna(verdict) else verdict
        cells["would have been seen"] = number(_defined(row["grpo_detectable"]), 2)
        for endpoint, unit in SECONDARY.items():
            own = by_endpoint[endpoint].loc[variant]
            digits = 3 if endpoint == "entropy" else 1
            cells[f"{unit}, minus GRPO's"] = number(_defined(own["grpo_difference"]), digits)
        rows.append(cells)
    return pd.DataFrame(rows)


def _defined(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@registry.table("table_power", needs=("power",), section="training", place=-1, experiment="power")
def make(power: dict) -> Table:
    """The table of `build`."""
    facts = build(power)
    settings = power["settings"]
    note = (
        f"{settings['steps']} steps. Primary endpoint: mean training reward over all steps. Contrasts: differences of "
        "means with one variance for all arms, 95% t intervals; p-values adjusted by Holm within the arms against "
        "GRPO, and within those against random credit of the same dose. Would have been seen: the difference from "
        "GRPO that four of five such experiments find. Protocol: docs/protocol.md."
    )
    return Table(facts, shown(facts), "Section 5 with power: credit strategies, readings, doses and controls.", note)
