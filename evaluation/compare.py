"""Two evaluations of the same problems against each other, task by task.

    python -m evaluation.compare BASELINE/completions.jsonl TREATMENT/completions.jsonl

Differences are paired by problem: two runs share the hard problems, so the interval of a difference is narrower than
two separate ones suggest. McNemar's exact test for one completion a problem, else a sign-flip test over problems.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_jsonl, write_json
from attention_rhythm.statistics import avg_at_k, compare_paired


def compare(
    baseline: Sequence[Mapping[str, Any]], treatment: Sequence[Mapping[str, Any]], seed: int = 0
) -> list[dict[str, Any]]:
    """For each task of both runs: difference of accuracy in percentage points (treatment - baseline) with its interval.

    Both: rows of completions.jsonl. ReproError if a task's problems are not the same in both, or no task is shared.
    """
    before, after = ({task: own for task, own in pd.DataFrame(rows).groupby("task")} for rows in (baseline, treatment))
    result = []
    for task in (name for name in dict.fromkeys(row["task"] for row in baseline) if name in after):
        first, second = (_correct(own[task]) for own in (before, after))
        if set(first.index) != set(second.index):
            raise ReproError(
                f"{task}: the two runs are of different problems ({len(set(first.index) ^ set(second.index))} differ)"
            )
        second = second.loc[first.index]
        scores = [x.to_numpy()[:, 0] if x.shape[1] == 1 else x.to_numpy() for x in (first, second)]
        paired = compare_paired(*scores, seed=seed)
        result.append(
            {
                "task": task,
                "problems": len(first),
                "baseline": 100 * avg_at_k(first),
                "treatment": 100 * avg_at_k(second),
                "difference": 100 * paired.difference.estimate,
                "ci": [100 * paired.difference.low, 100 * paired.difference.high],
                "p_value": paired.p_value,
                "test": paired.test,
                "wins": paired.wins,
                "losses": paired.losses,
                "ties": paired.ties,
            }
        )
    if not result:
        raise ReproError("the two runs share no task")
    return result


def _correct(rows: pd.DataFrame) -> pd.DataFrame:
    """(problems, samples) of 0 and 1."""
    return rows.pivot(index="problem", columns="sample", values="correct").astype(float)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as a Markdown table."""
    shown = pd.DataFrame(
        {
            "Task": row["task"],
            "Problems": row["problems"],
            "Baseline %": f"{row['baseline']:.1f}",
            "Treatment %": f"{row['treatment']:.1f}",
            "Difference [95%]": f"{row['difference']:+.1f} [{row['ci'][0]:+.1f}, {row['ci'][1]:+.1f}]",
            "Won / lost / tied": f"{row['wins']} / {row['losses']} / {row['ties']}",
            "p": f"{row['p_value']:.3f} ({row['test']})",
        }
        for row in rows
    )
    return shown.to_markdown(index=False, disable_numparse=True) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 the files cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("baseline", type=Path, help="completions.jsonl of python -m evaluation.run")
    parser.add_argument("treatment", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args(arguments)
    try:
        rows = compare(read_jsonl(options.baseline), read_jsonl(options.treatment))
        if options.json:
            write_json(options.json, rows)
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
