"""Put each mutant of mutants.toml into a copy of the repository, run its tests, and write the table of README.md.

    python -m tests.mutants.run [WORD ...]    # only mutants whose row has one of these words; the other rows stay

A row says `survived` or, before it is tried, `untried`: `run survived untried` does what is left.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.mutants import SURVIVED, Mutant, load, read_table, write_table

ROOT = Path(__file__).resolve().parents[2]
# No .pyc: two mutants of one size, written within a second, would share it.
ENVIRONMENT = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
SECONDS = 300  # of the tests of one mutant: it may loop for ever
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow and not long and not network")


def main(words: list[str]) -> None:
    """Judge the mutants whose row has one of the words, or all, and write the table after each.

    RuntimeError: a test fails without any mutant.
    """
    results = read_table()
    rows = {mutant: f"{mutant.cell} | {results.get(mutant.cell, 'untried')}" for mutant in load()}
    chosen = [mutant for mutant, row in rows.items() if not words or any(word in row for word in words)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for tests in dict.fromkeys(mutant.tests for mutant in chosen):
            if failed := first_failure(folder, tests):
                raise RuntimeError(f"{failed} fails as it is: what it says of a mutant means nothing")
        for mutant in chosen:
            result = judge(mutant, folder)
            write_table(read_table() | {mutant.cell: result})
            print(f"{mutant.cell}: {result}", flush=True)


def copy_tree(folder: Path) -> None:
    """What git tracks, as it stands in the working tree."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def judge(mutant: Mutant, folder: Path) -> str:
    """What becomes of a mutant in a copy of the repository, which is as before afterwards."""
    file = folder / mutant.path
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.find, mutant.replace), encoding="utf-8")
    try:
        killer = first_failure(folder, mutant.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    if killer:
        return f"killed by `{killer}`" + (" though **called equivalent**" if mutant.equivalent else "")
    return f"equivalent: {mutant.equivalent}" if mutant.equivalent else SURVIVED


def first_failure(folder: Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails, without its parameters; None where all pass.

    RuntimeError: pytest found no tests, or was not understood.
    """
    # a fresh database: an example kept from one mutant must not find the next
    shutil.rmtree(folder / ".hypothesis", ignore_errors=True)
    command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=ENVIRONMENT, timeout=SECONDS, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the limit of {SECONDS} s"
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) ([\w./]+(?:::\w+)?)", done.stdout, re.MULTILINE)
    if not failed:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return failed.group(1)


if __name__ == "__main__":
    main(sys.argv[1:])
