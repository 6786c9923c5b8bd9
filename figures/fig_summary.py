"""The paper's claims and ours at a glance: one row a claim that has a result here (no paper figure)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import registry
from figures.style import PAGE, PAPER, VERDICTS, theme
from figures.table_summary import JACCARD, LIFT, POINTS, SHARE, build

UNITS = (LIFT, SHARE, JACCARD, POINTS)
ROW, FRAME = 0.2, 0.5  # inches: a claim; what an axis needs besides


@registry.figure(
    "fig_summary",
    needs=("couplings", "perturbation", "evaluations", "experiments", "seed"),
    section="summary",
    place=1,
    caption=(
        "The claims that have a result here. Colour and marker are the verdict, the line our 95% interval, "
        "the black bar the paper's number, the grey line no effect."
    ),
)
def draw_claims(*results: Any) -> Figure:
    """The figure from the results that `table_summary.build` takes."""
    return draw(build(*results))


@theme()
def draw(facts: pd.DataFrame) -> Figure:
    """The rows of `table_summary.build` that were run, one panel a unit.

    Ours with its 95% interval, its colour and marker the verdict; the paper's number a black line; no effect grey.
    """
    run = facts[facts["reproduced"] != "not run"]
    panels = {unit: rows for unit, rows in run.groupby("unit") if len(rows)}
    panels = {unit: panels[unit] for unit in UNITS if unit in panels}
    heights = [FRAME + ROW * len(rows) for rows in panels.values()]
    fig = Figure(figsize=(PAGE, sum(heights) + 0.35), layout="constrained")
    axes = fig.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (unit, rows) in zip(axes, panels.items(), strict=True):
        _panel(ax, rows.to_dict("records"), unit)
    handles = [
        axes[0].plot([], [], color=color, marker=marker, ms=4, label=f"reproduced: {verdict}")[0]
        for verdict, (color, marker) in VERDICTS.items()
    ]
    handles.append(axes[0].plot([], [], color=PAPER, ls="", marker="|", ms=9, mew=1.4, label="paper")[0])
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


def _panel(ax: Axes, rows: list[dict], unit: str) -> None:
    for y, row in enumerate(rows):
        color, marker = VERDICTS[row["reproduced"]]
        ax.plot([row["low"], row["high"]], [y, y], color=color, lw=1.2, solid_capstyle="butt")
        ax.plot(row["ours"], y, marker=marker, ms=4, color=color)
        ax.plot(row["paper"], y, color=PAPER, marker="|", ms=9, mew=1.4)
    ax.axvline(rows[0]["null"], color="0.75", lw=0.8, zorder=0)
    ax.set(xlabel=unit, ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(range(len(rows)), [_label(row["claim"]) for row in rows], size=6.5)
    ax.grid(axis="y", color="0.94", lw=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)


def _label(claim: str) -> str:
    """Without what the axis says."""
    for ending in (", lift over chance (%)", ", % of problems", " (points)"):
        claim = claim.removesuffix(ending)
    return claim.removeprefix("Difference in Jaccard, ")
