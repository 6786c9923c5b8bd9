"""The list of mutants and the table of what became of them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "mutants"
LIST, TABLE = FOLDER / "mutants.toml", FOLDER / "table.md"
SURVIVED = "**survived**"
HEADER = "# Mutants\n\nMade by `python -m tests.mutants.run`; the list is in `mutants.toml`.\n\n| Mutant | Result |\n| --- | --- |\n"


@dataclass(frozen=True)
class Mutant:
    """`before` in the file `path` becomes `after`; one of `tests` fails, unless it is `equivalent` for this reason."""

    path: str
    tests: tuple[str, ...]
    before: str
    after: str
    equivalent: str = ""

    @property
    def cell(self) -> str:
        """What it is, as the first cell of its row."""
        before, after = (" ".join(code.split()).replace("|", r"\|") for code in (self.before, self.after))
        return f"{self.path}: `{before}` → " + (f"`{after}`" if after else "nothing")


def load() -> list[Mutant]:
    """Every mutant of the list, in order."""
    files = tomllib.loads(LIST.read_text(encoding="utf-8"))["file"]
    return [Mutant(file["path"], tuple(file["tests"]), **own) for file in files for own in file["mutant"]]


def read_table() -> dict[str, str]:
    """The result of each mutant, by its cell; empty before the first run."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    rows = (line.removeprefix("| ").removesuffix(" |") for line in lines if line.startswith("| ") and "`" in line)
    return {cell: result for cell, _, result in (row.rpartition(" | ") for row in rows)}


def write_table(results: Mapping[str, str]) -> None:
    """The table, in the order of the list; mutants without a result are left out."""
    rows = [f"| {m.cell} | {results[m.cell]} |\n" for m in load() if m.cell in results]
    TABLE.write_text(HEADER + "".join(rows), encoding="utf-8")
