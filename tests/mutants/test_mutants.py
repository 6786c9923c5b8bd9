"""The list of mutants fits the code, and the table the list: neither can rot unnoticed. Trying them is run.py's job."""

import re
from pathlib import Path

import pytest

from tests.support.mutants import load, read_table

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = load()


@pytest.mark.parametrize("path", sorted({mutant.path for mutant in MUTANTS}))
def test_what_a_mutant_replaces_occurs_once_in_its_file(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    found = {mutant.find: text.count(mutant.find) for mutant in MUTANTS if mutant.path == path}
    assert set(found.values()) == {1}, {find: count for find, count in found.items() if count != 1}


def test_every_mutant_has_been_tried_and_no_two_are_the_same():
    cells = [mutant.cell for mutant in MUTANTS]
    assert list(read_table()) == cells, "run: python -m tests.mutants.run, with a word of what is missing"
    assert len(cells) == len(set(cells))


def test_no_mutant_survives():
    for mutant in MUTANTS:
        result = read_table()[mutant.cell]
        assert result.startswith("equivalent: " if mutant.equivalent else "killed by `"), f"{mutant.cell}: {result}"


def test_the_tests_that_killed_them_are_still_there():
    for cell, result in read_table().items():
        for path, name in re.findall(r"killed by `([\w./]+)::(\w+)`", result):
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{cell}: {path}::{name} has gone"
