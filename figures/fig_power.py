"""Section 5 with power: difference of every arm from GRPO, on the primary endpoint and in final accuracy."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures import registry
from figures.style import BLACK, GREEN, GREY, PAGE, PURPLE, STRATEGIES, theme
from figures.table_power import DOSE, arm_called, build

PANELS = {"reward": "mean training reward minus GRPO's (points)", "sampled": "final accuracy minus GRPO's (points)"}
CONTROLS = {"last_try": GREEN, "outside": PURPLE}


def color_of(variant: str) -> str:
    """The colour of a strategy, whatever it is read from; controls have their own."""
    stem = variant.removesuffix(DOSE)
    if stem in CONTROLS:
        return CONTROLS[stem]
    return next((color for name, color in STRATEGIES.items() if stem.startswith(name)), GREY)


@registry.figure(
    "fig_power",
    needs=("power",),
    section="training",
    place=-2,
    caption=(
        "What each arm gains over GRPO: filled at the paper's dose of 1.5, hollow at 4. Lines are 95% intervals with "
        "one variance for all arms; the grey band is what the experiment could not have seen."
    ),
    experiment="power",
)
@theme()
def draw(power: dict) -> Figure:
    """One row an arm, one panel an endpoint: difference from GRPO in points, with its 95% interval, at both doses."""
    facts = build(power)
    arms = [name for name in dict.fromkeys(facts["variant"].str.removesuffix(DOSE)) if name != "grpo"]
    fig = Figure(figsize=(PAGE, 1.1 + 0.27 * len(arms)), layout="constrained")
    axes = fig.subplots(1, len(PANELS), sharey=True)
    for ax, (endpoint, label) in zip(axes, PANELS.items(), strict=True):
        own = facts[facts["endpoint"] == endpoint].set_index("variant")
        seen = float(pd.to_numeric(own["grpo_detectable"]).min())
        ax.axvspan(-seen, seen, color="0.93", lw=0, zorder=0)
        for y, arm in enumerate(arms):
            for variant, offset in ((arm, -0.15), (arm + DOSE, 0.15)):
                if variant not in own.index or pd.isna(own.loc[variant, "grpo_difference"]):
                    continue
                row, color = own.loc[variant], color_of(variant)
                face = "white" if variant.endswith(DOSE) else color
                ax.plot([row["grpo_low"], row["grpo_high"]], [y + offset] * 2, color=color, lw=1.2)
                ax.plot(row["grpo_difference"], y + offset, marker="o", ms=4.2, color=color, mfc=face)
        ax.axvline(0, color="0.6", lw=0.8, zorder=0)
        ax.set(xlabel=label)
        ax.grid(axis="y", color="0.94", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(arms)), [arm_called(arm) for arm in arms])
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    handles = [
        axes[0].plot([], [], color=BLACK, marker="o", ms=4.2, label="dose 1.5")[0],
        axes[0].plot([], [], color=BLACK, marker="o", ms=4.2, mfc="white", label="dose 4")[0],
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig
