"""Monospaced text laid out piece by piece, each on its own colour: token heat maps and marked continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from figures.style import ink, printable

ADVANCE = 0.602  # em: the width of every DejaVu Sans Mono glyph


@dataclass(frozen=True)
class Piece:
    """A run of text with the colour behind it; `strong` is bold and underlined, `faint` grey."""

    text: str
    background: str | tuple = "#FFFFFF"
    strong: bool = False
    faint: bool = False


def columns(width: float, size: float) -> int:
    """Characters of `size` points that fit into `width` inches."""
    return int(width * 72 / (ADVANCE * size))


def wrap(pieces: Sequence[Piece], width: int) -> list[list[tuple[int, Piece]]]:
    """Lines of (column, piece), at most `width` characters each.

    A piece moves to the next line when it does not fit; one longer than a line is cut over lines; a line ends after a
    piece that holds a line break.
    """
    lines: list[list[tuple[int, Piece]]] = [[]]
    column = 0
    for piece in pieces:
        ends = "\n" in piece.text
        text = printable(piece.text)
        while text:
            if column + len(text) > width and column > 0:
                lines.append([])
                column = 0
            part, text = text[:width], text[width:]
            lines[-1].append((column, Piece(part, piece.background, piece.strong, piece.faint)))
            column += len(part)
        if ends:
            lines.append([])
            column = 0
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def draw(ax: Axes, lines: list[list[tuple[int, Piece]]], width: int, size: float, height: int | None = None) -> None:
    """Draw wrapped `lines` into `ax`, one data unit a character across and a line down."""
    ax.set(xlim=(0, width), ylim=(height or len(lines), 0))
    ax.axis("off")
    for row, line in enumerate(lines):
        for column, piece in line:
            if to_rgb(piece.background) != (1.0, 1.0, 1.0):
                ax.add_patch(Rectangle((column, row + 0.04), len(piece.text), 0.92, color=piece.background, lw=0))
            color = "#777777" if piece.faint else ink(piece.background)
            ax.text(
                column, row + 0.5, piece.text.rstrip(), color=color, size=size, family="monospace",
                va="center_baseline", weight="bold" if piece.strong else "normal",
            )  # fmt: skip
            if piece.strong:
                start = (
                    column + len(piece.text) - len(piece.text.lstrip())
                )  # a token starts with its space; leave it bare
                ax.plot([start, column + len(piece.text)], [row + 0.93] * 2, color=color, lw=0.6, solid_capstyle="butt")
