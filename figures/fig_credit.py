"""Difference of every variant from GRPO and from random credit of equal budget, over seeds (no paper figure)."""

from __future__ import annotations

from matplotlib.figure import Figure

from figures import registry
from figures.accuracy import LABELS
from figures.inputs import EXPERIMENTS
from figures.style import GREY, PAGE, PAPER, STRATEGIES, theme
from figures.table_training import papers_gain

BASELINES = {"grpo": "minus GRPO's", "random": "minus random credit's"}


@theme()
def draw(experiment: dict) -> Figure:
    """One row a variant, one panel a baseline: difference of final held-out accuracy in percentage points.

    A small dot is a seed's pair, the large one their mean, the line its 95% t interval over seeds (none with one seed),
    the black bar the paper's difference, at its scale (see `table_training`).
    """
    results = {result["variant"]: result for result in experiment["results"]}
    names = [name for name in results if name != "grpo"]
    fig = Figure(figsize=(PAGE, 1.1 + 0.24 * len(names)), layout="constrained")
    axes = fig.subplots(1, len(BASELINES), sharey=True, squeeze=False)[0]
    for ax, (baseline, label) in zip(axes, BASELINES.items(), strict=True):
        for y, name in enumerate(names):
            against = results[name]["against"].get(baseline)
            if against is None:
                continue
            color = STRATEGIES.get(name, GREY)
            pairs = zip(results[name]["by_seed"], results[baseline]["by_seed"], strict=False)
            ax.plot([own - other for own, other in pairs], [y] * against["seeds"], ls="", marker=".", ms=3, color="0.6")
            if None not in against["ci"]:
                ax.plot(against["ci"], [y, y], color=color, lw=1.3, solid_capstyle="butt")
            ax.plot(against["mean"], y, marker="o", ms=4.5, color=color)
            ax.plot(papers_gain(name, baseline), y, color=PAPER, marker="|", ms=9, mew=1.4)
        ax.axvline(0, color="0.6", lw=0.8, zorder=0)
        ax.set(xlabel=f"accuracy {label} (points)")
        ax.grid(axis="y", color="0.94", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), [LABELS.get(name, name) for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles = [
        axes[0].plot([], [], color="0.3", marker="o", ms=4.5, label="mean over seeds, 95% interval")[0],
        axes[0].plot([], [], ls="", color="0.6", marker=".", ms=3, label="one seed")[0],
        axes[0].plot([], [], ls="", color=PAPER, marker="|", ms=9, mew=1.4, label="paper, at its scale")[0],
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


for _place, _name in enumerate(EXPERIMENTS):
    registry.figure(
        f"fig_credit_{_name}",
        needs=(_name,),
        section="training",
        place=2 + 4 * _place,
        caption=(
            "Final held-out accuracy of each variant, minus that of plain GRPO and minus that of random credit of "
            "equal budget. The black bar is the paper's difference, at its scale."
        ),
        experiment=_name,
    )(draw)
