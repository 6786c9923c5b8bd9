"""Two evaluations of the same problems against each other, task by task.

    python -m evaluation.compare BASELINE TREATMENT

Each is the folder that evaluation.run has written (or a profile's results), or a completions.jsonl itself.

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

from attention_rhythm.commands import run_command
from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import read_jsonl, write_json
from attention_rhythm.statistics import avg_at_k, compare_paired

COMPLETIONS = ("completions.jsonl", "evaluation.jsonl")  # of evaluation.run, of a profile
COLUMNS = ("task", "problem", "sample", "correct")


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
    """(problems, samples) of 0 and 1. ReproError: a completion that is there twice, or not at all."""
    if (twice := rows[rows.duplicated(["problem", "sample"])]).size:
        raise ReproError(f"problem {twice['problem'].iloc[0]}: sample {twice['sample'].iloc[0]} is there twice")
    correct = rows.pivot(index="problem", columns="sample", values="correct").astype(float)
    if (short := correct[correct.isna().any(axis=1)]).size:
        raise ReproError(f"problem {short.index[0]}: {correct.shape[1]} samples of others, fewer of this one")
    return correct


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


def read_completions(path: Path) -> list[dict[str, Any]]:
    """The rows of a completions file, or of the one in a folder.

    UsageError: a folder without one, or a file that is none.
    """
    if path.is_dir():
        files = [path / name for name in COMPLETIONS if (path / name).is_file()]
        if not files:
            raise UsageError(
                f"{path}: no {' or '.join(COMPLETIONS)} in this folder; give the folder that evaluation.run has"
                " written, or results/PROFILE"
            )
        path = files[0]
    rows = read_jsonl(path)
    if not rows:
        raise UsageError(f"{path}: no completions in it")
    for number, row in enumerate(rows, 1):
        lacking = [name for name in COLUMNS if name not in row] if isinstance(row, dict) else COLUMNS
        if lacking:
            raise UsageError(f"{path}, row {number}: no completion, it lacks {', '.join(lacking)}")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 the files cannot be compared, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("baseline", type=Path, help="the folder of python -m evaluation.run, or its completions.jsonl")
    parser.add_argument("treatment", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args(arguments)

    def work() -> None:
        """Compare, write, print."""
        rows = compare(read_completions(options.baseline), read_completions(options.treatment))
        if options.json:
            write_json(options.json, rows)
        print(table(rows))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
