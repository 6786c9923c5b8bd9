"""Fig. 2: local and global attention maps of one response, and WAAD, FAI and entropy over the same tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from figures import registry
from figures.style import PAGE, PEAKS, SIGNALS, theme, token_label

CURVES = ("waad", "fai", "entropy")


def window(tokens: pd.DataFrame, maps: dict, limit: int = 64) -> tuple[pd.DataFrame, dict]:
    """The first `limit` tokens that the maps cover: their rows of `tokens`, and the maps cut to them."""
    n = min(limit, len(maps["local"]))
    shown = tokens[tokens["response"].astype(str) == maps["response"]].sort_values("t")
    shown = shown[shown["t"].between(maps["start"], maps["start"] + n - 1)]
    if len(shown) != n:
        raise ValueError(f"maps.npz shows {n} tokens of response {maps['response']}, tokens.parquet has {len(shown)}")
    return shown, {name: np.asarray(maps[name], dtype=np.float32)[:n, :n] for name in ("local", "global")}


@registry.figure(
    "fig2_attention",
    needs=("tokens", "maps"),
    section="rhythm",
    place=1,
    caption=(
        "Fig. 2. Above: attention among the first tokens of one response, mean over the local heads (left) "
        "and the global heads (right). Below: WAAD, FAI and entropy of the same tokens. Triangles are peaks, "
        "grey lines WAAD peaks."
    ),
)
@theme()
def draw(tokens: pd.DataFrame, maps: dict, limit: int = 64) -> Figure:
    """Fig. 2 over the first `limit` tokens.

    Maps: mean attention over the local and over the global heads (Eq. 8), from the token of a row to the token of a
    column, log colour scale. Curves: WAAD (tokens), FAI (mean attention received, no unit), entropy (nats); triangles
    are peaks, grey lines the WAAD peaks in all three.
    """
    shown, cut = window(tokens, maps, limit)
    fig = Figure(figsize=(PAGE, 6.9), layout="constrained")
    fig.get_layout_engine().set(h_pad=0.02, hspace=0.01)
    axes = fig.subplot_mosaic(
        [["local", "global"], *([name, name] for name in CURVES)], height_ratios=[3.3, 0.95, 0.95, 0.95]
    )

    peak = max(float(np.nanmax(cut[name])) for name in cut)
    norm = LogNorm(vmin=min(1e-3, peak / 10), vmax=peak, clip=True)
    positions = shown["t"].to_numpy()
    first, last = positions[0], positions[-1]
    for name, title in (("local", "Local heads"), ("global", "Global heads")):
        ax = axes[name]
        lower = np.ma.masked_where(np.triu(np.ones_like(cut[name], dtype=bool), k=1), cut[name])
        image = ax.imshow(
            lower, norm=norm, cmap="rocket_r", interpolation="nearest",
            extent=(first - 0.5, last + 0.5, last + 0.5, first - 0.5),
        )  # fmt: skip
        ax.set(title=title, xlabel="token attended to (position)", ylabel="token attending (position)")
        ax.spines[["top", "right"]].set_visible(True)
    inset = axes["global"].inset_axes([0.42, 0.93, 0.55, 0.035])  # the empty half of the map
    bar = fig.colorbar(image, cax=inset, orientation="horizontal", format=lambda value, _: f"{value:g}")
    bar.set_label("attention, mean over heads", size=6.5, labelpad=1)
    bar.ax.tick_params(labelsize=6.5, pad=1.5, length=2)
    bar.ax.minorticks_off()

    for name in CURVES:
        _curve(axes[name], shown, name)
        axes[name].set_xlim(first - 0.7, last + 0.7)
    for name in CURVES[:-1]:
        axes[name].tick_params(axis="x", labelbottom=False, length=1.5)
    bottom = axes[CURVES[-1]]
    bottom.set_xticks(positions, [token_label(text) for text in shown["token"]])
    bottom.tick_params(axis="x", rotation=90, labelsize=min(6.0, 6.0 * 64 / len(positions)), length=1.5, pad=1.5)
    for label in bottom.get_xticklabels():
        label.set_family("monospace")
    bottom.set_xlabel(f"response token (positions {first} to {last} of response {maps['response']})")
    fig.align_ylabels([axes[name] for name in CURVES])
    top = axes[CURVES[0]]
    marks = [
        top.plot([], [], ls="", marker="v", ms=4.5, color="0.3", label="peak")[0],
        top.plot([], [], color="0.85", lw=0.8, label="WAAD peak")[0],
    ]
    fig.legend(handles=marks, loc="outside lower right", ncols=2)
    return fig


def _curve(ax: Axes, shown: pd.DataFrame, name: str) -> None:
    signal, t, values = SIGNALS[name], shown["t"].to_numpy(), shown[name].to_numpy(dtype=float)
    for at in t[shown[PEAKS["waad"]].to_numpy(dtype=bool)]:
        ax.axvline(at, color="0.85", lw=0.8, zorder=0)
    ax.plot(t, values, color=signal.color, marker="o", ms=1.6, lw=0.9)
    peaks = shown[PEAKS[name]].to_numpy(dtype=bool) & np.isfinite(values)
    ax.plot(t[peaks], values[peaks], ls="", marker="v", ms=4.5, color=signal.color, mec="white", mew=0.5)
    ax.set_ylabel(signal.axis)
    ax.margins(y=0.15)
    ax.set_xticks(t)
    if not np.isfinite(values).all():
        low, high = ax.get_ylim()
        ax.fill_between(t, low, high, where=~np.isfinite(values), color="0.93", lw=0, step="mid")
        ax.set_ylim(low, high)


def reading(tokens: pd.DataFrame, maps: dict, limit: int = 64) -> str:
    """What the drawn tokens show, in words; one response proves nothing, so it claims nothing beyond them."""
    shown, cut = window(tokens, maps, limit)
    at = shown[PEAKS["waad"]].to_numpy(dtype=bool)
    rows, columns = np.indices(cut["local"].shape)
    near = (rows - columns < 10) & (rows >= columns)
    share = {name: 100 * float(values[near].sum() / values[rows >= columns].sum()) for name, values in cut.items()}
    entropy = shown["entropy"]
    at_peaks = f"{entropy[at].mean():.2f} nats at its {at.sum()} WAAD peaks" if at.any() else "no WAAD peak"
    return (
        f"Of the attention among these {len(shown)} tokens, the local heads spend {share['local']:.0f}% on the token "
        f"itself and the nine before it, the global heads {share['global']:.0f}%. Entropy: {at_peaks}, "
        f"{entropy.mean():.2f} nats over all of them."
    )
