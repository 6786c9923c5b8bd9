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
LABELS = {
    UNTRAINED: "untrained",
    "grpo": "GRPO",
    "random": "random credit",
    "entropy": "entropy credit",
    "local_chunk": "local chunk",
    "global_anchor": "global anchor",
    "coupled_rhythm": "coupled rhythm",
}
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
