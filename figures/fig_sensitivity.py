"""Sensitivity of Table 2: the lift of each statistic under every convention the paper leaves open (no paper figure)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import paper, registry
from figures.style import PAGE, PAPER, VERDICTS, theme

CONVENTIONS = ("peak", "row", "layers", "head_scope", "horizon", "head_fraction")
MEANING = {
    "yes": "interval on the paper's side of 0",
    "not shown": "interval holds 0",
    "opposite": "opposite side of 0",
}


def varying(frame: pd.DataFrame) -> list[str]:
    """Conventions that take more than one value."""
    return [name for name in CONVENTIONS if frame[name].astype(str).nunique() > 1]


def ordered(keys: pd.DataFrame) -> pd.DataFrame:
    """Conventions sorted by one choice after the other, the values of each in the order in which they first come."""
    return keys.sort_values(
        list(keys.columns), key=lambda column: column.map(list(column.unique()).index), ignore_index=True
    )


@registry.figure(
    "fig_sensitivity",
    needs=("sensitivity",),
    section="rhythm",
    place=5,
    caption=(
        "The three lifts of Table 2 under every convention that the paper leaves open. A row is one set of "
        "answers; the dashed line is the paper's lift."
    ),
)
@theme()
def draw(frame: pd.DataFrame) -> Figure:
    """Lift over random (percent) with its 95% interval over problems; one row a convention, one panel a statistic.

    The dashed line is the paper's lift (Table 2), the grey line no effect.
    """
    names = varying(frame) or ["peak"]
    keys = frame[list(CONVENTIONS)].astype(str)
    order = ordered(keys.drop_duplicates())
    rank = {tuple(row): y for y, row in enumerate(order.to_numpy())}
    fig = Figure(figsize=(PAGE, 0.95 + 0.17 * len(order)), layout="constrained")
    axes = fig.subplots(1, len(paper.STATISTICS), sharey=True)
    for ax, (name, statistic) in zip(axes, paper.STATISTICS.items(), strict=True):
        rows, lift = frame[frame["statistic"] == name], paper.coupling(name)["lift"]
        for key, row in zip(keys.loc[rows.index].to_numpy(), rows.itertuples(), strict=True):
            verdict = paper.same_side(row.lift_low, row.lift_high, lift)
            color, marker = VERDICTS.get(verdict, VERDICTS["not shown"])
            y = rank[tuple(key)]
            ax.plot([row.lift_low, row.lift_high], [y, y], color=color, lw=1.1, solid_capstyle="butt")
            ax.plot(row.lift, y, marker=marker, ms=3, color=color)
        ax.axvline(0, color="0.75", lw=0.8, zorder=0)
        ax.axvline(lift, color=PAPER, ls=(0, (3, 2)), lw=1.0, zorder=0)
        ax.set(title=statistic.short, xlabel="lift over random (%)")
        ax.grid(axis="y", color="0.94", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(
        range(len(order)), [" · ".join(row).replace("_", " ") for row in order[names].to_numpy()], size=6.2
    )
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    axes[0].set_ylabel(" · ".join(name.replace("_", " ") for name in names))
    for at in np.flatnonzero(order[names[0]].ne(order[names[0]].shift()))[1:]:
        for ax in axes:
            ax.axhline(at - 0.5, color="0.6", lw=0.5)
    handles = [
        axes[0].plot([], [], color=color, marker=marker, ms=3, label=MEANING[verdict])[0]
        for verdict, (color, marker) in VERDICTS.items()
    ]
    handles.append(axes[0].plot([], [], color=PAPER, ls=(0, (3, 2)), label="paper")[0])
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig
