"""Fig. 9: the tokens of one response as running text, coloured by WAAD, by FAI and by entropy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from figures import registry, textflow
from figures.style import PAGE, PEAKS, SIGNALS, ramp, theme

PANELS = ("waad", "fai", "entropy")
SIZE = 6.4  # points
LEADING = 1.45  # line height, in font sizes
HEAD, FOOT, MARGIN = 0.30, 0.06, 0.05  # inches, per panel


@registry.figure(
    "fig9_tokens",
    needs=("tokens", "example"),
    section="rhythm",
    place=2,
    caption=(
        "Fig. 9. The text of that response, coloured by each signal. Bold and underlined: a peak. Grey: the "
        "signal is undefined there."
    ),
)
@theme()
def draw(tokens: pd.DataFrame, response: str | None = None, limit: int = 260) -> Figure:
    """Fig. 9 for the first `limit` tokens of `response` (default: the first response).

    Colour scales run from the 5th to the 95th percentile of the tokens shown. Bold and underlined: a peak of that
    signal. Grey text: the signal is undefined there (FAI has no later tokens to receive attention from at the end of a
    response).
    """
    response = str(tokens["response"].iloc[0] if response is None else response)
    whole = tokens[tokens["response"].astype(str) == response].sort_values("t")
    if whole.empty:
        raise ValueError(f"no response {response} in tokens.parquet")
    shown = whole.head(limit)
    width = textflow.columns(PAGE - 2 * MARGIN, SIZE)
    texts = {name: textflow.wrap(_pieces(shown, name), width) for name in PANELS}

    line = SIZE * LEADING / 72
    heights = [HEAD + len(texts[name]) * line + FOOT for name in PANELS]
    fig = Figure(figsize=(PAGE, sum(heights)))
    top = sum(heights)
    for name, height in zip(PANELS, heights, strict=True):
        signal, scale = SIGNALS[name], _scale(shown[name])
        body = (
            MARGIN / PAGE,
            (top - height + FOOT) / sum(heights),
            1 - 2 * MARGIN / PAGE,
            (height - HEAD - FOOT) / sum(heights),
        )
        textflow.draw(fig.add_axes(body), texts[name], width, SIZE)
        middle = (top - HEAD * 0.55) / sum(heights)
        fig.text(MARGIN / PAGE, middle, f"{signal.label} ({signal.unit})", weight="bold", va="center", size=8)
        bar = fig.add_axes([0.745, middle - 0.05 / sum(heights), 0.18, 0.10 / sum(heights)])
        fig.colorbar(ScalarMappable(scale, ramp(signal.color)), cax=bar, orientation="horizontal", ticks=[])
        bar.text(-0.03, 0.5, f"{scale.vmin:.3g}", transform=bar.transAxes, ha="right", va="center", size=6.5)
        bar.text(1.03, 0.5, f"{scale.vmax:.3g}", transform=bar.transAxes, ha="left", va="center", size=6.5)
        top -= height
    cut = "" if len(shown) == len(whole) else f", the first {len(shown)} of {len(whole)} tokens"
    fig.text(0.27, 1 - HEAD * 0.55 / sum(heights), f"response {response}{cut}", va="center", size=7, color="0.35")
    return fig


def _scale(values: pd.Series) -> Normalize:
    defined = values.dropna()
    low, high = np.percentile(defined, [5, 95]) if len(defined) else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1.0, clip=True)


def _pieces(shown: pd.DataFrame, name: str) -> list[textflow.Piece]:
    scale, colors = _scale(shown[name]), ramp(SIGNALS[name].color)
    return [
        textflow.Piece(text, faint=True)
        if np.isnan(value)
        else textflow.Piece(text, tuple(colors(float(scale(value))))[:3], strong=bool(peak))
        for text, value, peak in zip(shown["token"], shown[name], shown[PEAKS[name]], strict=True)
    ]
