"""Tables 3, 5, 7a, 9, 14 and 19 at the scale of the embedded experiment, beside the paper's numbers at its own."""

from __future__ import annotations

from functools import partial

import pandas as pd

from figures import paper, registry
from figures.accuracy import LABELS
from figures.paper import MISSING
from figures.tables import Table, defined, ends, estimate, number

# variant -> where paper.yaml has its accuracies on the five mathematics benchmarks. Table 19's horizons stand for those
# in the same ratio to the default: ours is (5, 40), the paper's (10, 100).
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
    "global_all_heads": ("table14_heads", "global_anchor", "all_heads"),
    "local_all_heads": ("table14_heads", "local_chunk", "all_heads"),
    "coupled_all_heads": ("table14_heads", "coupled_rhythm", "all_heads"),
    "local_W5": ("table19_hyperparameters", "local_chunk_W", 5),
    "local_W20": ("table19_hyperparameters", "local_chunk_W", 20),
    "global_lo0": ("table19_hyperparameters", "global_anchor_H_lo", 0),
    "global_lo10": ("table19_hyperparameters", "global_anchor_H_lo", 20),
    "global_hi20": ("table19_hyperparameters", "global_anchor_H_hi", 50),
    "global_hiend": ("table19_hyperparameters", "global_anchor_H_hi", "eos"),
}

SETTINGS = {  # of an ablation table: where Table 4 has its GRPO and its random credit
    "table5_ablation": "qwen3_8b_base_1k",
    "table7a_sign": "qwen3_8b_base_1k",
    "table9_layer_range": "qwen3_4b_base_1k",
    "table14_heads": "qwen3_4b_base_1k",
    "table19_hyperparameters": "qwen3_4b_base_1k",
}


def papers_number(variant: str) -> float:
    """The paper's accuracy in percent: Countdown for a strategy (Table 3), the mean of five benchmarks for an ablation.

    NaN where it has none.
    """
    strategies = paper.reported()["table3_puzzles_qa"]
    if variant in strategies:
        return float(strategies[variant]["countdown"])
    if variant in PAPER:
        return paper.average(*PAPER[variant])
    return float("nan")


def papers_gain(variant: str, baseline: str) -> float:
    """What `variant` gains over `baseline` (grpo or random) in the paper, in points; NaN where it does not say."""
    strategies = paper.reported()["table3_puzzles_qa"]
    if variant in strategies:
        return papers_number(variant) - papers_number(baseline)
    if variant in PAPER:
        setting = SETTINGS[PAPER[variant][0]]
        return papers_number(variant) - paper.average("table4_math", setting, baseline)
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
            "Variant": LABELS.get(row.variant, row.variant),
            "Accuracy % [95%]": _cell(row, "accuracy"),
            "Greedy %": number(row.greedy),
            "Gain over the warm start": _cell(row, "gain"),
            "Minus GRPO [95%]": _cell(row, "less_grpo"),
            "p": number(row.less_grpo_p, 3),
            "Minus random [95%]": _cell(row, "less_random"),
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
        " for the ablations, horizons by their ratio to the default; another task and scale, so only signs can be"
        " compared. A variant is a strategy and what differs in it. Else the highest 40% are credited, advantages of"
        " both signs are scaled, layers are those of the middle third, local and global heads 30% each, the WAAD window"
        " is 10 and FAI runs over 5 to 40 tokens ahead."
        f" {MISSING}: one seed, or nothing to compare."
    )
    return Table(facts, shown, title, note)


def _cell(row, name: str) -> str:
    values = [getattr(row, f"{name}{end}") for end in ("", "_low", "_high")]
    return number(values[0]) if pd.isna(values[1]) else estimate(*values)


TITLES = {
    "training": "Credit strategies on the embedded Countdown policy (Table 3 in our scale).",
    "training_extended": "Credit strategies on the embedded Countdown policy, extended (Table 3 in our scale).",
    "ablations": "Ablations on the embedded Countdown policy (Tables 5, 7a, 9, 14, 19 in our scale).",
}
for _place, (_name, _title) in enumerate(TITLES.items()):
    registry.table(_name, needs=(_name,), section="training", place=3 + 4 * _place, experiment=_name)(
        partial(make, title=_title)
    )
