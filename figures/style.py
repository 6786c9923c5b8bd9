"""One look for every figure: fonts, sizes, colours, and how a figure is saved.

Colours are the Okabe-Ito palette (colour-blind safe). A signal or a strategy has the same colour in every figure, and a
strategy that acts on one signal shares that signal's colour: `local_chunk` is WAAD's blue, `global_anchor` FAI's red.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from attention_rhythm.files import write_bytes

COLUMN = 3.35  # inches: one column of a two-column paper
PAGE = 6.9  # inches: both columns
DPI = 200

BLUE, RED, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#8C8C8C"
PAPER = BLACK  # the paper's number, wherever it is drawn


@dataclass(frozen=True)
class Signal:
    """How one per-token signal is named, measured and coloured."""

    label: str
    unit: str
    color: str
    meaning: str

    @property
    def axis(self) -> str:
        """Axis label with its unit."""
        return f"{self.label}\n({self.unit})"


SIGNALS = {
    "waad": Signal("WAAD", "tokens", BLUE, "how far back the local heads look (Eq. 9)"),
    "fai": Signal("FAI", "mean attention", RED, "mean attention received from later tokens, global heads (Eq. 10)"),
    "entropy": Signal("Entropy", "nats", GREEN, "entropy of the distribution the token was drawn from"),
    "receiver_fai": Signal("Receiver FAI", "mean attention", PURPLE, "mean attention received, receiver heads"),
    "gamma": Signal("Credit γ", "factor", ORANGE, "factor on the advantage (coupled-rhythm credit, Eqs. 16-19)"),
}
PEAKS = {"waad": "waad_peak", "fai": "fai_peak", "entropy": "entropy_peak", "receiver_fai": "receiver_peak"}

STRATEGIES = {
    "grpo": GREY,
    "random": ORANGE,
    "entropy": GREEN,
    "local_chunk": BLUE,
    "global_anchor": RED,
    "coupled_rhythm": BLACK,
}
VERDICTS = {  # of a claim: colour, and a marker that says the same without colour
    "yes": (BLUE, "o"),
    "not shown": (GREY, "s"),
    "opposite": (RED, "X"),
}
GROUPS = {"top": RED, "bottom": SKY, "matched": GREY}  # groups of perturbed positions, by FAI

RC = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "font.monospace": ["DejaVu Sans Mono"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.0,
    "figure.dpi": 150,
    "text.hinting": "no_hinting",  # glyphs as wide as the layout of running text takes them to be
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
    "ps.fonttype": 42,
    "text.parse_math": False,  # model text is full of dollar signs
}


def theme():
    """Context manager, and decorator, under which every figure is drawn and saved."""
    return mpl.rc_context(RC)


def use() -> None:
    """Put the look on for the rest of the session: for notebooks, where drawing goes on after a function returned."""
    mpl.rcParams.update(RC)


def ramp(color: str) -> LinearSegmentedColormap:
    """White to `color`: the sequential map of one signal."""
    return LinearSegmentedColormap.from_list(f"white-{color}", ["#FFFFFF", color])


def ink(background: str | tuple) -> str:
    """Black or white, whichever reads better on `background` (WCAG relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)]
    return "#000000" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "#FFFFFF"


@lru_cache
def _glyphs(family: str) -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=[family]))).get_charmap())


def printable(text: str, family: str = "DejaVu Sans Mono") -> str:
    """`text` on one line, in characters that the font has: line breaks as ↵, anything it lacks as □."""
    text = text.replace("\r\n", "\n").replace("\n", "↵").replace("\r", "↵").replace("\t", "→")
    return "".join(c if ord(c) in _glyphs(family) and c.isprintable() else "□" for c in text)


def token_label(text: str, limit: int = 12) -> str:
    """A token as a tick label: without the space it starts with, `␣` for a blank one, cut to `limit` characters."""
    label = printable(text).strip() or "␣"
    return label if len(label) <= limit else label[: limit - 1] + "…"


def save(fig: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.pdf, whole or not at all, the same bytes for the same figure; returns both paths."""
    # No Creator or Producer either: a new matplotlib must not alone change a committed figure's metadata.
    metadata = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    }
    written = []
    for suffix, fields in metadata.items():
        buffer = io.BytesIO()
        with theme():
            fig.savefig(buffer, format=suffix, dpi=DPI, metadata=fields, facecolor="white")
        written.append(Path(f"{path}.{suffix}"))
        write_bytes(written[-1], buffer.getvalue())
    return written
