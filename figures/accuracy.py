"""Accuracies of Tables 3, 4 and 6, ours beside the paper's: what the three tables share.

Ours come from evaluation.json files: of the model as it was handed in (`untrained`), and of whatever trained models
were evaluated into results/PROFILE/evaluations/STRATEGY/ (python -m evaluation.run --out ...).
"""

from __future__ import annotations

import pandas as pd

from figures import paper
from figures.paper import MISSING
from figures.tables import Table, cited, estimate, number

NAN = float("nan")
UNTRAINED = "untrained"
LABELS = {  # a variant, as tables and figures name it
    UNTRAINED: "untrained",
    "grpo": "GRPO",
    "random": "random credit",
    "entropy": "entropy credit",
    "local_chunk": "local chunk",
    "global_anchor": "global anchor",
    "coupled_rhythm": "coupled rhythm",
    # the ablations: what differs from the strategy that stands first
    "global_bottom40": "global anchor, lowest 40% credited",
    "local_bottom40": "local chunk, lowest 40% credited",
    "coupled_bottom40": "coupled rhythm, lowest 40% credited",
    "coupled_top20": "coupled rhythm, highest 20% credited",
    "coupled_top60": "coupled rhythm, highest 60% credited",
    "coupled_top80": "coupled rhythm, highest 80% credited",
    "coupled_top100": "coupled rhythm, all tokens credited",
    "positive_only": "coupled rhythm, positive advantages only",
    "negative_only": "coupled rhythm, negative advantages only",
    "layers_all": "coupled rhythm, layers of the whole model",
    "layers_top": "coupled rhythm, layers of the top third",
    "layers_bottom": "coupled rhythm, layers of the bottom third",
    "global_all_heads": "global anchor, all heads",
    "local_all_heads": "local chunk, all heads",
    "coupled_all_heads": "coupled rhythm, all heads",
    "local_W5": "local chunk, WAAD window 5 (not 10)",
    "local_W20": "local chunk, WAAD window 20 (not 10)",
    "global_lo0": "global anchor, FAI over 0 to 40 (not 5 to 40)",
    "global_lo10": "global anchor, FAI over 10 to 40 (not 5 to 40)",
    "global_hi20": "global anchor, FAI over 5 to 20 (not 5 to 40)",
    "global_hiend": "global anchor, FAI over 5 to the end (not 5 to 40)",
    # the experiment with power: other readings, controls, and all of them at four times the advantage
    "local_chunk_all": "local chunk, all six layers",
    "local_chunk_before": "local chunk, row before",
    "local_chunk_all_before": "local chunk, all six layers, row before",
    "global_anchor_all": "global anchor, all six layers",
    "coupled_rhythm_all": "coupled rhythm, all six layers",
    "last_try": "last try (positive control)",
    "outside": "outside decisions (negative control)",
    "value_credit": "measured values as credit",
    "vine": "measured values as advantages",
}
DOSED = (
    *("random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm", "last_try", "outside", "value_credit"),
    *("local_chunk_all", "local_chunk_before", "local_chunk_all_before", "global_anchor_all", "coupled_rhythm_all"),
)
LABELS |= {f"{name}_x4": f"{LABELS[name]}, dose 4" for name in DOSED}
BENCHMARKS = {
    "countdown": "Countdown",
    "crossthink_qa": "CrossThink-QA",
    "aime24": "AIME24",
    "aime25": "AIME25",
    "amc23": "AMC23",
    "math500": "MATH500",
    "olympiadbench": "Olympiad",
    "minerva": "Minerva",
    "gsm8k": "GSM8K",
}

PaperRows = dict[tuple[str, str], dict[str, float]]  # (the paper's setting, strategy) -> benchmark -> percent


def reported_rows(table: str, labels: dict[str, str], benchmarks: tuple[str, ...]) -> PaperRows:
    """A table of paper.yaml, strategy by strategy; labels: its settings and how they are called here.

    Its rows hold one number a benchmark, and their mean, which is left out.
    """
    return {
        (label, strategy): dict(zip(benchmarks, values[:-1], strict=True))
        for setting, label in labels.items()
        for strategy, values in paper.reported()[table][setting].items()
    }


def build(evaluations: dict[str, dict], reported: PaperRows, benchmarks: tuple[str, ...]) -> pd.DataFrame:
    """One row a strategy, setting of the paper, and benchmark; accuracies in percent.

    evaluations: strategy -> evaluation.json. Each of ours stands beside every setting of the paper; one that the paper
    has no number for (`untrained`) stands alone. A benchmark that a generator stood in for is not the benchmark: the
    column `graded_as` says what was asked.
    """
    keys = [("", name) for name in evaluations if name not in {strategy for _, strategy in reported}]
    keys += list(reported)
    rows = []
    for setting, strategy in keys:
        own = {task["task"]: task for task in evaluations.get(strategy, {"tasks": []})["tasks"]}
        for name in benchmarks:
            task = own.get(name, {"accuracy": NAN, "ci": (NAN, NAN), "problems": 0, "samples": 0, "metric": ""})
            rows.append(
                {
                    "setting": setting,
                    "strategy": strategy,
                    "benchmark": name,
                    "graded_as": task.get("graded_as", name),
                    "ours": task["accuracy"],
                    "low": task["ci"][0],
                    "high": task["ci"][1],
                    "n_problems": task["problems"],
                    "samples": task["samples"],
                    "metric": task["metric"],
                    "paper": reported.get((setting, strategy), {}).get(name, NAN),
                }
            )
    return pd.DataFrame(rows)


def make(
    evaluations: dict[str, dict], reported: PaperRows, benchmarks: tuple[str, ...], title: str, model: dict
) -> Table:
    """The facts, and a table of one row a strategy whose cells read `ours [95%] / paper`."""
    facts = build(evaluations, reported, benchmarks)
    shown = []
    for (setting, strategy), own in facts.groupby(["setting", "strategy"], sort=False):
        row = {"Paper's model": setting or MISSING, "Strategy": LABELS.get(strategy, strategy)}
        for cell in own.itertuples():
            ours = estimate(cell.ours, cell.low, cell.high)
            row[BENCHMARKS[cell.benchmark]] = f"{ours} / {number(cell.paper)}"
        shown.append(row)
    measured = facts[facts["n_problems"] > 0].drop_duplicates("benchmark")
    counts = ", ".join(
        f"{row.graded_as} {row.metric} n = {row.n_problems}" for row in measured.itertuples()
    )  # what was asked, which the column's head does not tell where a generator stood in
    note = (
        f"Cells: ours, percent, with its 95% interval (Wilson for one greedy completion, bootstrap over problems for"
        f" several) / the paper's. Ours: {cited(model)}, not the paper's models;"
        f" {counts or 'no benchmark of this table evaluated'}. {MISSING}: not evaluated, or not reported."
    )
    return Table(facts, pd.DataFrame(shown), title, note)
