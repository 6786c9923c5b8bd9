"""Every claim of the paper that can be held against a result of ours: paper, ours, reproduced? (no paper table).

The verdict is read off our interval alone (see `paper.same_side`): `yes` where all of it lies on the paper's side of no
effect, `opposite` where all of it lies on the other, `not shown` where it holds no effect or where one seed gives no
interval, `not run` where there is no result. Sizes are not compared: the models are not the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from attention_rhythm.statistics import t_interval
from figures import (
    accuracy,
    paper,
    registry,
    table1_perturbation,
    table2_couplings,
    table4_math,
    table6_families,
    table_training,
)
from figures.tables import Table, cited, count, estimate, number

NAN = float("nan")
LIFT, SHARE = "lift over chance (%)", "share of problems (%)"
JACCARD, POINTS = "difference in Jaccard", "difference in accuracy (points)"
DIGITS = {LIFT: 1, SHARE: 1, JACCARD: 3, POINTS: 1}
VERDICTS = ("yes", "not shown", "opposite", "not run")
STRATEGIES = ("random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm")
ATTENTION = ("local_chunk", "global_anchor", "coupled_rhythm")

# (the paper's table, a variant of the embedded experiment, another) and where paper.yaml has the other's number, in the
# same table: the claim is the first minus the second.
ABLATIONS = (
    *(("Table 5", name, "grpo", "grpo") for name in ("global_bottom40", "local_bottom40", "coupled_bottom40")),
    *(
        ("Table 5", name, "coupled_rhythm", "coupled_top40")
        for name in ("coupled_top20", "coupled_top60", "coupled_top80", "coupled_top100")
    ),
    *(("Table 7a", name, "coupled_rhythm", "both") for name in ("positive_only", "negative_only")),
    *(("Table 9", name, "coupled_rhythm", "middle") for name in ("layers_all", "layers_top", "layers_bottom")),
    ("Table 14", "global_all_heads", "global_anchor", "targeted"),
    ("Table 14", "local_all_heads", "local_chunk", "targeted"),
    ("Table 14", "coupled_all_heads", "coupled_rhythm", "targeted"),
    *(("Table 19", name, "local_chunk", 10) for name in ("local_W5", "local_W20")),
    *(("Table 19", name, "global_anchor", 10) for name in ("global_lo0", "global_lo10")),
    *(("Table 19", name, "global_anchor", 100) for name in ("global_hi20", "global_hiend")),
)


def build(
    couplings: dict, perturbation: dict, evaluations: dict[str, dict], experiments: dict[str, dict], seed: int
) -> pd.DataFrame:
    """One row a claim: `paper` and `ours` in `unit`, 95% interval `low` to `high`, `null` the value of no effect.

    experiments: those of `training`, `training_extended` and `ablations` that have been run; the extended one takes the
    place of the short one. `n` counts problems, `seeds` runs.
    """
    rows = [
        *_couplings(couplings, seed),
        *_perturbation(perturbation, seed),
        *_training(experiments.get("training_extended", experiments.get("training"))),
        *_ablations(experiments.get("ablations")),
        *_accuracy(evaluations),
    ]
    return pd.DataFrame(rows)


def _row(
    table: str, claim: str, unit: str, theirs: float, ours: tuple[float, float, float], n: float, seeds: float,
    null: float = 0.0, side: float | None = None,
) -> dict:  # fmt: skip
    """side: where the paper's claim points, if it gives no number of its own."""
    value, low, high = ours
    verdict = paper.same_side(low, high, theirs if side is None else side, null)
    if math.isnan(value):
        verdict = "not run"
    elif verdict == paper.MISSING:
        verdict = "not shown"
    return {
        "table": table, "claim": claim, "unit": unit, "paper": theirs, "ours": value, "low": low, "high": high,
        "null": null, "n": n, "seeds": seeds, "reproduced": verdict,
    }  # fmt: skip


def _couplings(couplings: dict, seed: int) -> Iterator[dict]:
    for row in table2_couplings.build(couplings, seed).to_dict("records"):
        ours = row["lift"], row["lift_low"], row["lift_high"]
        claim = f"{paper.STATISTICS[row['statistic']].label}, lift over chance (%)"
        yield _row("Table 2", claim, LIFT, row["paper_lift"], ours, row["n_problems"], 1)


def _perturbation(perturbation: dict, seed: int) -> Iterator[dict]:
    facts = table1_perturbation.build(perturbation, seed)
    claims = facts[(facts["measure"] != "mean") & (facts["tokens"] == table1_perturbation.ALL)]
    sides = claims[claims["against"] == "bottom"].set_index("measure")["paper"]
    for row in claims.to_dict("records"):
        share = row["measure"] == "pr_less"
        control = row["against"] == "matched"  # ours: the paper has no number for it, but its claim has a side
        yield _row(
            "our control" if control else "Table 1",
            table1_perturbation.label(row),
            SHARE if share else JACCARD,
            row["paper"],
            (row["value"], row["low"], row["high"]),
            row["n_problems"],
            1,
            null=row["null"],
            side=sides[row["measure"]],
        )


def _training(experiment: dict | None) -> Iterator[dict]:
    """Table 3's Countdown: what each strategy gains over GRPO, and attention's over random credit of equal budget."""
    theirs = {name: row["countdown"] for name, row in paper.reported()["table3_puzzles_qa"].items()}
    pairs = [(name, "grpo") for name in STRATEGIES] + [(name, "random") for name in ATTENTION]
    for own, other in pairs:
        claim = f"Countdown, {accuracy.LABELS[own]} minus {accuracy.LABELS[other]} (points)"
        yield _difference("Table 3", claim, theirs[own] - theirs[other], experiment, own, other)


def _ablations(experiment: dict | None) -> Iterator[dict]:
    """The paper's averages over five mathematics benchmarks, ours on Countdown."""
    for table, own, other, default in ABLATIONS:
        path = table_training.PAPER[own]
        theirs = paper.average(*path) - paper.average(*path[:-1], default)
        claim = f"{accuracy.LABELS[own]} minus {accuracy.LABELS[other]} (points)"
        yield _difference(table, claim, theirs, experiment, own, other)


def _difference(table: str, claim: str, theirs: float, experiment: dict | None, own: str, other: str) -> dict:
    """Two variants of the embedded experiment, paired by seed."""
    results = {} if experiment is None else {result["variant"]: result for result in experiment["results"]}
    if own not in results or other not in results:
        return _row(table, claim, POINTS, theirs, (NAN, NAN, NAN), NAN, NAN)
    pairs = np.subtract(results[own]["by_seed"], results[other]["by_seed"])
    ours = t_interval(pairs)
    held_out, seeds = experiment["settings"]["held_out"], results[own]["seeds"]
    return _row(table, claim, POINTS, theirs, (ours.mean, ours.low, ours.high), held_out, seeds)


def _accuracy(evaluations: dict[str, dict]) -> Iterator[dict]:
    """Trained models on the paper's benchmarks: the mean gain of coupled-rhythm credit over GRPO, Tables 3, 4 and 6."""
    table3 = paper.reported()["table3_puzzles_qa"]
    theirs = table3["coupled_rhythm"]["crossthink_qa"] - table3["grpo"]["crossthink_qa"]
    yield _gain("Table 3", "CrossThink-QA, coupled rhythm minus GRPO (points)", theirs, evaluations, ("crossthink_qa",))
    for table, key, module, settings in (
        ("Table 4", "table4_math", table4_math, table4_math.SETTINGS),
        ("Table 6", "table6_families", table6_families, table6_families.FAMILIES),
    ):
        for setting, label in settings.items():
            reported = paper.reported()[key][setting]
            theirs = reported["coupled_rhythm"][-1] - reported["grpo"][-1]
            claim = f"Mathematics ({label}), coupled rhythm minus GRPO (points)"
            yield _gain(table, claim, theirs, evaluations, module.BENCHMARKS)


def _gain(table: str, claim: str, theirs: float, evaluations: dict[str, dict], benchmarks: tuple[str, ...]) -> dict:
    """Mean difference over benchmarks. Its interval takes the two models' accuracies as independent, which is wide."""
    runs = [_benchmarks(evaluations.get(name, {"tasks": []})) for name in ("grpo", "coupled_rhythm")]
    if not all(name in run for run in runs for name in benchmarks):
        return _row(table, claim, POINTS, theirs, (NAN, NAN, NAN), NAN, NAN)
    before, after = ([run[name] for name in benchmarks] for run in runs)
    mean = float(np.mean([b["accuracy"] - a["accuracy"] for a, b in zip(before, after, strict=True)]))
    # Newcombe's interval of a difference of two shares, from their own; in the mean over benchmarks errors average out.
    down = [(b["accuracy"] - b["ci"][0], a["ci"][1] - a["accuracy"]) for a, b in zip(before, after, strict=True)]
    up = [(b["ci"][1] - b["accuracy"], a["accuracy"] - a["ci"][0]) for a, b in zip(before, after, strict=True)]
    low, high = (float(np.sqrt(np.square(parts).sum())) / len(benchmarks) for parts in (down, up))
    n = sum(task["problems"] for task in after)
    return _row(table, claim, POINTS, theirs, (mean, mean - low, mean + high), n, 1)


def _benchmarks(evaluation: dict) -> dict[str, dict]:
    """The benchmarks themselves: what a generator stood in for is another task."""
    return {task["task"]: task for task in evaluation["tasks"] if task["graded_as"] == task["task"]}


def shown(facts: pd.DataFrame) -> pd.DataFrame:
    """The rows of `build` as text."""
    return pd.DataFrame(
        {
            "Claim": row["claim"],
            "From": row["table"],
            "Paper": number(row["paper"], DIGITS[row["unit"]]),
            "Ours [95%]": _ours(row, DIGITS[row["unit"]]),
            "n": count(row["n"]),
            "Seeds": count(row["seeds"]),
            "Reproduced?": row["reproduced"],
        }
        for row in facts.to_dict("records")
    )


def _ours(row: dict, digits: int) -> str:
    value = row["ours"], row["low"], row["high"]
    return number(row["ours"], digits) if math.isnan(row["low"]) else estimate(*value, digits)


@registry.table(
    "summary",
    needs=("couplings", "perturbation", "evaluations", "experiments", "model", "seed"),
    section="summary",
    place=2,
)
def make(
    couplings: dict,
    perturbation: dict,
    evaluations: dict[str, dict],
    experiments: dict[str, dict],
    model: dict,
    seed: int,
) -> Table:
    """The summary."""
    facts = build(couplings, perturbation, evaluations, experiments, seed)
    note = (
        f"Tables 1 and 2: {cited(model)}, n problems, bootstrap intervals over problems. "
        "Table 3's Countdown and the ablations: the embedded policy, n held-out puzzles, t intervals over seeds, not "
        "corrected for the number of rows. Other accuracies: models that were trained and evaluated into evaluations/. "
        "Reproduced, read off our interval alone: yes where all of it lies on the paper's side of no effect (0, or 50% "
        "of problems), opposite where all of it lies on the other, not shown where it holds no effect or one seed "
        "gives no interval, not run where there is no result. Sizes are not compared: our models are not the paper's."
    )
    return Table(facts, shown(facts), "The paper's claims and ours.", note)


def reading(facts: pd.DataFrame) -> str:
    """How many claims got which verdict, as a Markdown list; every word follows from the rows of `build`."""
    words = {
        "yes": "the whole interval lies on the paper's side of no effect",
        "not shown": "the interval holds no effect, or one seed gives no interval",
        "opposite": "the whole interval lies on the **other** side",
        "not run": "there is no result here",
    }
    lines = []
    for verdict in VERDICTS:
        claims = facts[facts["reproduced"] == verdict]["claim"]
        if len(claims):
            names = "" if verdict == "not run" else ": " + "; ".join(claims)
            lines.append(f"- **{verdict}**, {len(claims)} of {len(facts)} ({words[verdict]}){names}")
    return "\n".join(lines)
