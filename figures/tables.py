"""A table as Markdown (to read), CSV (to compute with) and LaTeX (booktabs, to typeset)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from attention_rhythm.files import write_table, write_text
from figures.paper import MISSING


@dataclass(frozen=True)
class Table:
    """`facts`: every digit, for the CSV; `shown`: the same as text, for people; title and note say the rest."""

    facts: pd.DataFrame
    shown: pd.DataFrame
    title: str
    note: str

    def markdown(self) -> str:
        """The table as a Markdown section."""
        cells = self.shown.map(lambda cell: str(cell).replace("|", r"\|"))  # a bare bar would end the cell
        return f"**{self.title}**\n\n{cells.to_markdown(index=False, disable_numparse=True)}\n\n{self.note}\n"

    def latex(self) -> str:
        """The table as a LaTeX float; needs the package booktabs."""
        styled = self.shown.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
        caption = " ".join(_latex(text) for text in (self.title, self.note))
        columns = "l" * self.shown.shape[1]
        return styled.to_latex(
            hrules=True, caption=caption, position_float="centering", environment="table*", column_format=columns
        )

    def _repr_markdown_(self) -> str:
        return self.markdown()


def write(table: Table, stem: Path) -> list[Path]:
    """Write `stem`.md, .csv and .tex, each whole or not at all; returns the paths."""
    paths = [Path(f"{stem}.{suffix}") for suffix in ("md", "csv", "tex")]
    write_text(paths[0], table.markdown())
    write_table(paths[1], table.facts)
    write_text(paths[2], table.latex())
    return paths


def cited(model: dict) -> str:
    """How a note names the model of model.json: its spec and the first digits of its weights' hash."""
    return f"{model['spec']} ({model['sha256'][:12]})"


def number(value: float | None, digits: int = 1) -> str:
    """Fixed number of decimals; a dash where undefined."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """`[low, high]`; a dash where either is undefined."""
    ends = number(low, digits), number(high, digits)
    return MISSING if MISSING in ends else f"[{ends[0]}, {ends[1]}]"


def estimate(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """`value [low, high]`."""
    return MISSING if number(value) == MISSING else f"{number(value, digits)} {interval(low, high, digits)}"


def count(value: float | None) -> str:
    """A whole number."""
    return MISSING if value is None or math.isnan(value) else f"{int(value)}"


def defined(value: float | None) -> float:
    """JSON's null, an undefined value, as NaN."""
    return float("nan") if value is None else float(value)


def ends(pair: list | None) -> tuple[float, float]:
    """The ends of an interval from a result file, NaN where undefined."""
    return (defined(pair[0]), defined(pair[1])) if pair else (float("nan"), float("nan"))


def settings(values: dict) -> str:
    """The settings of a result file as `name = value, ...`."""
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _latex(text: str) -> str:
    for character, escaped in (
        ("\\", r"\textbackslash "),
        *((c, "\\" + c) for c in "&%$#_{}"),
        ("~", r"\textasciitilde "),
        ("^", r"\^{}"),
    ):
        text = text.replace(character, escaped)
    return text
