"""Training curves (the paper's Figs. 4-8, at the scale of the embedded experiment)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attention_rhythm.statistics import t_interval
from figures import registry
from figures.accuracy import LABELS
from figures.style import PAGE, STRATEGIES, theme

PANELS = {  # column of training.csv: its label, and the factor to that unit
    "eval_sampled": ("held-out accuracy,\nT = 1 (%)", 100.0),
    "reward_mean": ("training reward (batch mean)", 1.0),
    "entropy": ("token entropy (nats)", 1.0),
    "response_length": ("response length (tokens)", 1.0),
    "waad_peak_entropy_lift": ("entropy lift at\nWAAD peaks (%)", 100.0),
    "fai_follows_or_coincides_waad_lift": ("lift of FAI peaks at or\nafter WAAD peaks (%)", 100.0),
}
RATCHET = 0.3  # a of the paper's smoothing


def ratchet(values: np.ndarray, a: float = RATCHET) -> np.ndarray:
    """The paper's smoothing, EMA_t = a max(x_t, EMA_{t-1}) + (1-a) EMA_{t-1}, which never falls."""
    smooth = np.array(values, dtype=float)
    for t in range(1, len(smooth)):
        smooth[t] = a * max(smooth[t], smooth[t - 1]) + (1 - a) * smooth[t - 1]
    return smooth


def over_seeds(curves: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and 95% t interval over seeds at each step: columns mean, low, high (the latter NaN with one seed)."""
    table = curves.dropna(subset=[column]).pivot(index="step", columns="seed", values=column)
    intervals = [t_interval(row.dropna().to_numpy()) for _, row in table.iterrows()]
    return pd.DataFrame(
        [(i.mean, i.low, i.high) for i in intervals], index=table.index, columns=["mean", "low", "high"]
    )


@theme()
def draw(curves: pd.DataFrame, *, with_ratchet: bool = False) -> Figure:
    """One panel a quantity, one colour a strategy: the mean over seeds, a band of its 95% interval, and raw points.

    with_ratchet: also the paper's never-falling average of the mean, dotted.
    """
    variants = [name for name in STRATEGIES if name in set(curves["variant"])]
    panels = {name: panel for name, panel in PANELS.items() if name in curves and curves[name].notna().any()}
    rows = (len(panels) + 1) // 2
    fig = Figure(figsize=(PAGE, 0.5 + 2.0 * rows), layout="constrained")
    axes = np.atleast_1d(fig.subplots(rows, 2)).flatten()
    for ax, (name, (label, factor)) in zip(axes, panels.items(), strict=False):
        for variant in variants:
            own = curves[curves["variant"] == variant]
            _panel(ax, own, name, factor, STRATEGIES[variant], with_ratchet)
        ax.set(xlabel="step", ylabel=label)
        if name.endswith("lift"):
            ax.axhline(0, color="0.75", lw=0.8, zorder=0)
    for ax in axes[len(panels) :]:
        ax.remove()
    seeds = curves.groupby("variant")["seed"].nunique()
    counts = {name: f"{seeds[name]} seed" + ("s" if seeds[name] > 1 else "") for name in variants}
    handles = [axes[0].plot([], [], color=STRATEGIES[v], label=f"{LABELS[v]} ({counts[v]})")[0] for v in variants]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _panel(ax: Axes, own: pd.DataFrame, name: str, factor: float, color: str, with_ratchet: bool) -> None:
    summary = factor * over_seeds(own, name)
    if own["seed"].nunique() > 1 and len(summary) < 30:  # raw points only where they can be told apart
        ax.plot(own["step"], factor * own[name], ls="", marker=".", ms=2, alpha=0.35, color=color, mew=0)
    ax.plot(summary.index, summary["mean"], color=color, marker="o" if len(summary) < 12 else None, ms=2.5)
    if summary["low"].notna().any():
        ax.fill_between(summary.index, summary["low"], summary["high"], color=color, alpha=0.12, lw=0)
    if with_ratchet:
        ax.plot(summary.index, ratchet(summary["mean"].to_numpy()), color=color, ls=":", lw=0.9)


CAPTION = (
    "Training curves of the embedded policy, one colour a strategy: means over seeds, bands their 95% "
    "interval where there are several."
)
for _place, (_name, _more) in enumerate(
    (("training", ""), ("training_extended", " More seeds and steps than the default run."))
):
    registry.figure(
        f"fig_{_name}",
        needs=(f"{_name}_curves",),
        section="training",
        place=1 + 4 * _place,
        caption=CAPTION + _more,
        experiment=_name,
    )(draw)
