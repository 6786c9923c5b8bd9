"""The list of mutants, and the table of what became of them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "mutants"
LIST, TABLE = FOLDER / "mutants.toml", FOLDER / "README.md"
SURVIVED = "**survived**"
HEADER = """# Mutants

Small faults, each put into a copy of the repository on its own. A test should fail for each: where none does, nobody
has said what the code should do. `python -m tests.mutants.run` tries the mutants of `mutants.toml` and writes this
table, with the first test that failed; `test_mutants.py` holds both to the code.

"""


@dataclass(frozen=True)
class Mutant:
    """`find` in the file `path` becomes `replace`. One of `tests` fails, unless it is `equivalent` for this reason."""

    path: str
    tests: tuple[str, ...]
    find: str
    replace: str
    equivalent: str = ""

    @property
    def cell(self) -> str:
        """What it is, as the first cell of its row."""
        before, after = (" ".join(code.split()).replace("|", r"\|") for code in (self.find, self.replace))
        return f"{self.path}: `{before}` → " + (f"`{after}`" if after else "nothing")


def load() -> list[Mutant]:
    """Every mutant of the list, in order."""
    files = tomllib.loads(LIST.read_text(encoding="utf-8"))["file"]
    rows = [{"path": file["path"], "tests": file["tests"], **own} for file in files for own in file["mutant"]]
    return [Mutant(**row | {"tests": tuple(row["tests"])}) for row in rows]


def read_table() -> dict[str, str]:
    """The result of each mutant, by its cell; empty before the first run."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    rows = (line.removeprefix("| ").removesuffix(" |") for line in lines if line.startswith("| ") and "`" in line)
    return {cell: result for cell, _, result in (row.rpartition(" | ") for row in rows)}


def write_table(results: Mapping[str, str]) -> None:
    """The table, in the order of the list; mutants without a result are left out."""
    tried = [(mutant.cell, results[mutant.cell]) for mutant in load() if mutant.cell in results]
    killed = sum(result.startswith("killed") for _, result in tried)
    equivalent = sum(result.startswith("equivalent") for _, result in tried)
    summary = (
        f"{len(tried)} mutants: {killed} killed, {equivalent} equivalent, {len(tried) - killed - equivalent} survived."
    )
    rows = [f"| {cell} | {result} |\n" for cell, result in tried]
    TABLE.write_text(f"{HEADER}{summary}\n\n| Mutant | Result |\n| --- | --- |\n{''.join(rows)}", encoding="utf-8")
