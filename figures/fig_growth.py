"""Growth of the signals' cost with sequence length, batch and depth (no paper figure).

    python -m figures.fig_growth

Reads benchmarks/results/growth.json, which `python -m benchmarks.growth` writes; growth.png and .pdf come beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json
from figures.style import BLUE, GREY, PAGE, RED, save, theme

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "growth.json"
AXES = {"length": "sequence length (tokens)", "batch": "sequences in a batch", "layers": "layers of the model"}
QUANTITIES = {"wall_seconds": "time (s)", "above_mib": "memory above weights (MiB)"}
PASSES = {
    "separate": ("separate pass", BLUE),
    "fused": ("fused with log-probs", RED),
    "eager": ("eager maps", GREY),  # shorter: as far as they fit into memory
}


@theme()
def draw(rows: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Both axes logarithmic; one column a quantity that varies, the upper row time and the lower memory.

    Lines join the measurements; the legend gives the fitted exponent and its 95% interval.
    """
    fig = Figure(figsize=(PAGE, 3.9), layout="constrained")
    grid = fig.subplots(len(QUANTITIES), len(AXES), sharex="col")
    for line, (quantity, unit) in zip(grid, QUANTITIES.items(), strict=True):
        for ax, (axis, label) in zip(line, AXES.items(), strict=True):
            for name, (shown, color) in PASSES.items():
                own = rows[(rows["pass"] == name) & (rows["axis"] == axis)]
                if own.empty:
                    continue
                fit = fits[(fits["pass"] == name) & (fits["axis"] == axis) & (fits["quantity"] == quantity)].iloc[0]
                ax.plot(own[axis], own[quantity], marker="o", ms=3, color=color, label=f"{shown}: {_exponent(fit)}")
            ax.set(xscale="log", yscale="log")
            ax.xaxis.set_major_locator(FixedLocator(sorted(rows.loc[rows["axis"] == axis, axis].unique())))
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for scale in (ax.xaxis, ax.yaxis):
                scale.set_major_formatter(StrMethodFormatter("{x:g}"))  # the style draws no formulas
                scale.set_minor_locator(NullLocator())
            ax.legend(loc="upper left", fontsize=6, handlelength=1.2, borderaxespad=0.2)
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend
            if quantity == "above_mib":
                ax.set_xlabel(label)
        line[0].set_ylabel(unit)
    return fig


def _exponent(fit: pd.Series) -> str:
    if pd.isna(fit["exponent"]):
        return "no fit"
    low, high = fit["ci"]
    return f"{fit['exponent']:.2f} [{low:.2f}, {high:.2f}]"


def frames(record: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and fits of growth.json."""
    return pd.DataFrame(record["rows"]), pd.DataFrame(record["fits"])


def main() -> int:
    """Draw benchmarks/results/growth.json."""
    for path in save(draw(*frames(read_json(RESULTS))), RESULTS.with_suffix("")):
        print(f"written: {path.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
