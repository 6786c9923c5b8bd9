"""Two responses token by token: the chance to end right, and where the signals point (no paper figure)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import registry
from figures.style import BLACK, PAGE, SIGNALS, theme, token_label

LENGTHS = (20, 44)  # tokens of a response that is drawn: enough to see, few enough to read
STRIPS = ("waad", "fai", "entropy")
CAPTION = (
    "Two responses of the embedded policy after GRPO, one that ends right and one that ends wrong. The line is the "
    "share of continuations that end right, before and after each token; bars have the height of the signal over its "
    "largest, black dots are tokens that coupled-rhythm credit amplifies."
)


def chosen(tokens: pd.DataFrame) -> list[pd.DataFrame]:
    """Of the last subject, the right and the wrong response of readable length in which single tokens change most."""
    own = tokens[tokens["subject"] == tokens["subject"].iloc[-1]]
    length = own.groupby("response")["t"].transform("size")
    first, last = LENGTHS
    readable = own[length.between(first, last)] if length.between(first, last).any() else own
    change = (readable["after"] - readable["before"]) ** 2
    most = change.groupby([readable["right"], readable["response"]]).sum()
    found = [most.loc[right].idxmax() for right in (True, False) if right in most.index.get_level_values(0)]
    return [readable[readable["response"] == response].sort_values("t") for response in found]


@registry.figure(
    "fig_value_paths",
    needs=("policy_values_tokens",),
    section="token-values",
    place=0,
    caption=CAPTION,
    experiment="policy_values",
)
@theme()
def draw(tokens: pd.DataFrame) -> Figure:
    """For each response a line of values (share of right continuations), and below it a strip a signal."""
    halves = tokens[["before_a", "before_b", "after_a", "after_b"]]
    most = float(halves.max().max()) * 2  # K: some prefix is certain
    tokens = tokens.assign(
        before=halves[["before_a", "before_b"]].sum(axis=1) / most,
        after=halves[["after_a", "after_b"]].sum(axis=1) / most,
    )
    responses = chosen(tokens)
    fig = Figure(figsize=(PAGE, 2.75 * len(responses)), layout="constrained")
    axes = fig.subplots(2 * len(responses), 1, height_ratios=[2.2, 1] * len(responses), squeeze=False)[:, 0]
    for number, own in enumerate(responses):
        _values(axes[2 * number], own)
        _strips(axes[2 * number + 1], own)
    return fig


def _values(ax: Axes, own: pd.DataFrame) -> None:
    """Values before each token and after the last; a token's change is the step above its label."""
    count = len(own)
    edges = np.arange(count + 1) - 0.5
    values = np.append(own["before"].to_numpy(), own["after"].iloc[-1])
    ax.plot(edges, values, color="0.25", lw=1.2, marker=".", ms=3)
    ax.fill_between(edges, 0, values, color="0.92", lw=0)
    credited = np.flatnonzero(own["coupled_rhythm"].to_numpy() > 0)
    ax.plot(credited, np.full(len(credited), 1.06), ls="", marker="o", ms=2.6, color=BLACK, clip_on=False)
    outcome = "ends right" if bool(own["right"].iloc[0]) else "ends wrong"
    ax.set(xlim=(-0.6, count - 0.4), ylim=(0, 1), ylabel="share of continuations\nthat end right")
    ax.set_title(f"{own['problem'].iloc[0]}: {outcome}", loc="left", pad=9)
    ax.set_xticks(range(count), [token_label(text) for text in own["text"]], rotation=90, size=6.2)
    ax.tick_params(axis="x", length=0)


def _strips(ax: Axes, own: pd.DataFrame) -> None:
    """One row a signal: bars of the token's value over the response's largest."""
    for row, name in enumerate(STRIPS):
        values = own[name].to_numpy(float)
        largest = np.nanmax(values) if not np.isnan(values).all() else 1.0
        ax.bar(
            range(len(own)), 0.85 * np.nan_to_num(values) / largest, bottom=-row, color=SIGNALS[name].color, width=0.8
        )
    ax.set(xlim=(-0.6, len(own) - 0.4), ylim=(1 - len(STRIPS), 1), xticks=[])
    ax.set_yticks([0.4 - row for row in range(len(STRIPS))], [SIGNALS[name].label for name in STRIPS])
    ax.tick_params(axis="y", length=0)
    for spine in ("left", "bottom"):
        ax.spines[spine].set_visible(False)
