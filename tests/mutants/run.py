"""Put each mutant of mutants.toml into a copy of the repository, run its tests, and write table.md.

python -m tests.mutants.run [WORD ...]    # only mutants whose row holds one of these words; the other rows stay
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
SECONDS = 600  # of the tests of one mutant: it may loop for ever


def copy_tree(folder: Path) -> None:
    """What git tracks, as it stands in the working tree."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def first_failure(folder: Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails, without its parameters; None where all pass.

    RuntimeError: pytest found no tests, or was not understood.
    """
    # a fresh database: an example kept from one mutant must not find the next
    shutil.rmtree(folder / ".hypothesis", ignore_errors=True)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
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


def judge(mutant: Mutant, folder: Path) -> str:
    """What becomes of a mutant in a copy of the repository, which is as before afterwards."""
    file = folder / mutant.path
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
    try:
        killer = first_failure(folder, mutant.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    if killer:
        return f"killed by `{killer}`" + (" though **called equivalent**" if mutant.equivalent else "")
    return f"equivalent: {mutant.equivalent}" if mutant.equivalent else SURVIVED


def main(words: list[str]) -> None:
    """Judge the mutants whose row holds one of the words, or all, and write the table after each."""
    results = read_table()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for mutant in load():
            row = f"{mutant.cell} | {results.get(mutant.cell, '')}"
            if words and not any(word in row for word in words):
                continue
            results[mutant.cell] = judge(mutant, folder)
            write_table(results)
            print(f"{mutant.cell}: {results[mutant.cell]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
