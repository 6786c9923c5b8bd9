"""Problems as the parquet files that verl reads.

    python -m attention_rhythm.integrations.verl.data --task countdown --out data/countdown

writes train.parquet and test.parquet: the chat of tasks/prompts.py, and the whole problem for the
grader.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from attention_rhythm.commands import run_command
from attention_rhythm.files import atomic_path
from attention_rhythm.tasks.problems import Problem, load_problems
from attention_rhythm.tasks.prompts import messages
from attention_rhythm.tasks.puzzles import load_puzzles

TEST_OF = {"dapo_math": "math500"}  # tasks for training alone, and what is measured instead
PUZZLES = "puzzles"  # of the embedded experiment


def rows(problems: Sequence[Problem], split: str) -> list[dict[str, Any]]:
    """One row a problem, with the columns of verl's RLHFDataset."""
    return [
        {
            "data_source": problem.task,
            "prompt": messages(problem),
            "ability": problem.task,
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"index": index, "split": split, "problem": json.dumps(asdict(problem))},
        }
        for index, problem in enumerate(problems)
    ]


def write(task: str, folder: Path, limit: int | None = None) -> dict[str, int]:
    """train.parquet and test.parquet of a task in `folder`; the number of rows of each."""
    counts = {}
    for split, name in (("train", task), ("test", TEST_OF.get(task, task))):
        problems = load_puzzles(split, limit) if task == PUZZLES else load_problems(name, split=split, limit=limit)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / f"{split}.parquet") as temporary:
            pd.DataFrame(rows(problems, split)).to_parquet(temporary)
        counts[split] = len(problems)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m attention_rhythm.integrations.verl.data", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--task", required=True, metavar="NAME")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--limit", type=int, metavar="N", help="problems of each split")
    options = parser.parse_args(arguments)

    def work() -> None:
        """Write both files, and say so."""
        counts = write(options.task, options.out, options.limit)
        print("; ".join(f"{options.out}/{split}.parquet: {count} problems" for split, count in counts.items()))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
