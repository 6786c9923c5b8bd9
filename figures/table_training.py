"""Tables 3, 5, 7a, 9, 14 and 19 at the scale of the embedded experiment, beside the paper's numbers at its own."""

from __future__ import annotations

import pandas as pd

from figures import paper
from figures.accuracy import LABELS
from figures.paper import MISSING
from figures.tables import Table, defined, ends, estimate, number

# variant -> where the paper's average over its five mathematics benchmarks stands: (table of paper.yaml, path)
PAPER = {
    "global_bottom40": ("table5_ablation", "global_bottom40"),
    "local_bottom40": ("table5_ablation", "local_bottom40"),
    "coupled_bottom40": ("table5_ablation", "coupled_bottom40"),
    "coupled_top20": ("table5_ablation", "coupled_top20"),
    "coupled_top60": ("table5_ablation", "coupled_top60"),
    "coupled_top80": ("table5_ablation", "coupled_top80"),
    "coupled_top100": ("table5_ablation", "coupled_top100"),
    "positive_only": ("table7a_sign", "positive_only"),
    "negative_only": ("table7a_sign", "negative_only"),
    "layers_all": ("table9_layer_range", "all"),
    "layers_top": ("table9_layer_range", "top"),
    "layers_bottom": ("table9_layer_range", "bottom"),
}


SETTINGS = {  # of an ablation table: where Table 4 has its GRPO and its random credit
    "table5_ablation": "qwen3_8b_base_1k",
    "table7a_sign": "qwen3_8b_base_1k",
    "table9_layer_range": "qwen3_4b_base_1k",
}


def papers_number(variant: str) -> float:
    """The paper's accuracy in percent: Countdown for a strategy (Table 3), the mean of five benchmarks for an ablation.

    NaN where it has none, or where the settings are not the same (Tables 14 and 19 at another scale).
    """
    strategies = paper.reported()["table3_puzzles_qa"]
    if variant in strategies:
        return float(strategies[variant]["countdown"])
    if variant in PAPER:
        table, row = PAPER[variant]
        return float(paper.reported()[table][row][-1])
    return float("nan")


def papers_gain(variant: str, baseline: str) -> float:
    """What `variant` gains over `baseline` (grpo or random) in the paper, in points; NaN where it does not say."""
    strategies = paper.reported()["table3_puzzles_qa"]
    if variant in strategies:
        return papers_number(variant) - papers_number(baseline)
    if variant in PAPER:
        setting = SETTINGS[PAPER[variant][0]]
        return papers_number(variant) - paper.reported()["table4_math"][setting][baseline][-1]
    return float("nan")


def build(experiment: dict) -> pd.DataFrame:
    """One row a variant: final held-out accuracy at T = 1 in percent, gain over the warm start, and differences from
    GRPO and from random credit in points, each with its 95% t interval over seeds."""
    rows = []
    for result in experiment["results"]:
        row = {"variant": result["variant"], "seeds": result["seeds"]}
        measures = {"accuracy": result["accuracy"], "greedy": result["greedy"], "gain": result["gain"]}
        measures |= {f"less_{name}": value for name, value in result["against"].items()}
        for name in ("accuracy", "greedy", "gain", "less_grpo", "less_random"):
            value = measures.get(name, {"mean": None, "ci": None, "p_value": None})
            low, high = ends(value["ci"])
            row |= {name: defined(value["mean"]), f"{name}_low": low, f"{name}_high": high}
            row |= {f"{name}_p": defined(value["p_value"])} if name.startswith("less_") else {}
        rows.append(row | {"gamma_coverage": result["gamma_coverage"], "paper": papers_number(result["variant"])})
    return pd.DataFrame(rows)


def make(experiment: dict, title: str) -> Table:
    """The table of training.json, training_extended.json or ablations.json."""
    facts = build(experiment)
    shown = pd.DataFrame(
        {
            "Variant": LABELS.get(row.variant, row.variant.replace("_", " ")),
            "Accuracy % [95%]": _cell(row, "accuracy"),
            "Greedy %": number(row.greedy),
            "Gain over the warm start": _cell(row, "gain"),
            "Less GRPO [95%]": _cell(row, "less_grpo"),
            "p": number(row.less_grpo_p, 3),
            "Less random [95%]": _cell(row, "less_random"),
            "p ": number(row.less_random_p, 3),
            "Seeds": row.seeds,
            "γ ≠ 1, % of tokens": number(100 * row.gamma_coverage),
            "Paper %": number(row.paper),
        }
        for row in facts.itertuples()
    )
    settings = experiment["settings"]
    note = (
        f"Held-out Countdown puzzles (n = {settings['held_out']}, {settings['samples']} samples each at T = 1) after"
        f" {settings['steps']} steps; seeds {settings['seeds']}. Accuracy: mean over seeds with its 95% t interval over"
        " seeds; differences in points, paired by seed, with the p-value of a paired t test, not corrected for the"
        " number of rows. Paper: Countdown for the strategies (Qwen3-4B-Base), the mean of five mathematics benchmarks"
        " for the ablations; another task and scale, so only signs can be compared."
        f" {MISSING}: one seed, or nothing to compare."
    )
    return Table(facts, shown, title, note)


def _cell(row, name: str) -> str:
    values = [getattr(row, f"{name}{end}") for end in ("", "_low", "_high")]
    return number(values[0]) if pd.isna(values[1]) else estimate(*values)
