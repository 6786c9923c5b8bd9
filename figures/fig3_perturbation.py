"""Fig. 3: what a forced token changes, at positions of high and of low FAI, with one worked example."""

from __future__ import annotations

import re

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import paper, registry, textflow
from figures.style import GREY, GROUPS, PAGE, PAPER, RED, SKY, printable, theme
from figures.tables import defined, ends

LABELS = {"top": "high FAI", "bottom": "low FAI", "matched": "low FAI, same\nplace and kind"}
TITLES = {"top": "High FAI", "bottom": "Low FAI"}
COMPARISONS = {
    "top_vs_bottom": "high FAI below\nlow FAI",
    "top_vs_matched": "high FAI below low FAI,\nsame place and kind",
}
REPORTED = {"top": "jaccard_top_k_fai", "bottom": "jaccard_bottom_k_fai"}
SIZE = 6.4  # points, worked example
NEW = "#F6C9A8"  # behind words of the new continuation that the original does not have


def per_problem(perturbations: pd.DataFrame) -> pd.DataFrame:
    """Mean Jaccard of a problem in a group: over the candidates of a position, then over positions (`n` of them)."""
    positions = perturbations.dropna(subset="jaccard").groupby(["problem", "group", "position"])["jaccard"].mean()
    return positions.groupby(["problem", "group"]).agg(["mean", "size"]).reset_index().rename(
        columns={"mean": "jaccard", "size": "n"}
    )  # fmt: skip


def example(perturbations: pd.DataFrame, summary: dict, group: str, problem: str | None = None) -> pd.Series | None:
    """The typical case: the row of `group` (and `problem`) whose Jaccard is nearest the group's mean, words first.

    Typical by rule, so that no one picks it by eye; None when the group has no defined Jaccard.
    """
    rows = perturbations[(perturbations["group"] == group) & perturbations["jaccard"].notna()]
    mean = summary["groups"][group]["jaccard"]
    if rows.empty or mean is None:
        return None
    if problem is not None and (rows["problem"] == problem).any():
        rows = rows[rows["problem"] == problem]
    words = rows["kind"].isin(["word", "number"])
    rows = rows[words] if words.any() else rows
    return rows.loc[(rows["jaccard"] - mean).abs().idxmin()]


def examples(perturbations: pd.DataFrame, summary: dict) -> dict[str, pd.Series]:
    """One typical case at high and one at low FAI, of the same problem where it has both."""
    top = example(perturbations, summary, "top")
    bottom = example(perturbations, summary, "bottom", None if top is None else top["problem"])
    return {group: row for group, row in (("top", top), ("bottom", bottom)) if row is not None}


@registry.figure(
    "fig3_perturbation",
    needs=("perturbations", "perturbation"),
    section="perturbation",
    place=1,
    caption=(
        "Fig. 3. Words that a continuation keeps after a forced token, at positions of high and of low FAI. "
        "Dots are problems, diamonds means with their 95% interval, dashed lines the paper's numbers. Below, "
        "a typical case of each, chosen by rule."
    ),
)
@theme()
def draw(perturbations: pd.DataFrame, summary: dict) -> Figure:
    """Fig. 3.

    Left: Jaccard similarity (Eq. 11, 0 to 1) of the content words after the position, with and without the forced
    token; a dot is a problem, a diamond the mean with its 95% interval, a dashed line the paper's mean. Right: share
    of problems (percent) whose mean is lower at high FAI. Below: a typical case by rule (see `example`), new words
    marked.
    """
    cases = examples(perturbations, summary)
    width = textflow.columns(PAGE - 0.1, SIZE)
    blocks = [_case(row, group, width) for group, row in cases.items()]
    line = SIZE * 1.45 / 72
    below = sum(len(block) for block in blocks) * line + 0.15 * len(blocks)
    above = 2.75
    fig = Figure(figsize=(PAGE, above + below), layout="constrained")
    panels, text = fig.subfigures(2, 1, height_ratios=[above, below]) if blocks else (fig, None)
    left, right = panels.subplots(1, 2, width_ratios=[1.45, 1])
    _distribution(left, perturbations, summary["groups"])
    _probability(right, summary["comparisons"])
    handles, labels = left.get_legend_handles_labels()
    panels.legend(handles, labels, loc="outside lower center", ncols=3)

    top = 1.0
    for block in blocks:
        height = len(block) * line / below
        textflow.draw(text.add_axes((0.05 / PAGE, top - height, 1 - 0.1 / PAGE, height)), block, width, SIZE)
        top -= height + 0.15 / below
    return fig


def _distribution(ax: Axes, perturbations: pd.DataFrame, groups: dict) -> None:
    means = per_problem(perturbations)
    names = [name for name in LABELS if name in groups]
    sns.swarmplot(  # not a strip plot, whose random jitter would make every run a different file
        means, x="group", y="jaccard", order=names, hue="group", palette=GROUPS, size=2.4, alpha=0.6, legend=False,
        ax=ax, zorder=1,
    )  # fmt: skip
    for x, name in enumerate(names):
        group = groups[name]
        low, high = ends(group["ci"])
        ax.plot([x + 0.3] * 2, [low, high], color="black", lw=1.0, marker="_", ms=5, zorder=3)
        ax.plot(
            x + 0.3, defined(group["jaccard"]), marker="D", ms=4, color=GROUPS[name], mec="black", mew=0.6, zorder=4
        )
        if name in REPORTED:
            value = paper.reported()["table1_perturbation"][REPORTED[name]]
            ax.hlines(value, x - 0.3, x + 0.42, color=PAPER, ls=(0, (3, 2)), lw=1.0, zorder=2)
    ax.set_xticks(range(len(names)), [f"{LABELS[name]}\nn = {groups[name]['problems']}" for name in names])
    ax.set(xlabel="", ylabel="Jaccard similarity (0 to 1)", title="Words kept after a forced token", ylim=(-0.03, 1.03))
    ax.set_xlim(-0.5, len(names) - 0.4)
    ax.plot([], [], color=PAPER, ls=(0, (3, 2)), lw=1.0, label="the paper's mean")
    ax.plot([], [], ls="", marker="D", ms=4, color="white", mec="black", mew=0.6, label="mean, 95% interval")
    ax.plot([], [], ls="", marker="o", ms=2.6, color=GREY, label="one problem")


def _probability(ax: Axes, comparisons: list[dict]) -> None:
    rows = [row for row in comparisons if row["name"] in COMPARISONS]
    for y, row in enumerate(rows):
        low, high = ends(row["ci"])
        ax.plot([low, high], [y, y], color="black", lw=1.0, marker="|", ms=5, zorder=3)
        ax.plot(defined(row["pr_less"]), y, marker="D", ms=4, color=RED, mec="black", mew=0.6, zorder=4)
    reported = paper.reported()["table1_perturbation"]["pr_top_lt_bottom"]
    for y, row in enumerate(rows):
        if row["name"] == "top_vs_bottom":
            ax.vlines(reported, y - 0.3, y + 0.3, color=PAPER, ls=(0, (3, 2)), lw=1.0)
            ax.text(reported, y - 0.33, "paper", ha="center", va="bottom", size=6.5)
    ax.axvline(50, color="0.7", lw=0.8, zorder=0)
    ax.text(48.5, len(rows) - 0.45, "chance", ha="right", va="bottom", size=6.5, color="0.4")
    ax.set_yticks(range(len(rows)), [f"{COMPARISONS[row['name']]}\nn = {row['problems']}" for row in rows])
    ax.set(xlim=(0, 102), ylim=(len(rows) - 0.4, -0.6), xlabel="share of problems (%)", title="Pr(fewer words kept)")


def _case(row: pd.Series, group: str, width: int) -> list[list[tuple[int, textflow.Piece]]]:
    """Heading, original and new continuation, two lines each at most."""
    heading = (
        f"{TITLES[group]}, typical: token {_quoted(row['token'])} forced to {_quoted(row['candidate'])} at "
        f"{100 * row['relative_position']:.0f}% of the response; FAI {row['fai']:.2g}, Jaccard {row['jaccard']:.2f}"
    )
    background = {"top": RED, "bottom": SKY}[group]
    known = set(_words(row["original"]))
    lines = textflow.wrap([textflow.Piece(f" {heading} ".ljust(width)[:width], background)], width)
    for label, body in (("original  ", row["original"]), ("forced    ", row["continuation"])):
        pieces = [textflow.Piece(label, faint=True)]
        for part in re.findall(r"\w+|\s+|[^\w\s]+", body):
            new = label.startswith("forced") and part[0].isalnum() and part.lower() not in known
            pieces.append(textflow.Piece(printable(part), NEW if new else "#FFFFFF"))
        lines += _clip(textflow.wrap(pieces, width), width, 2)
    return lines


def _clip(lines: list, width: int, limit: int) -> list:
    if len(lines) <= limit:
        return lines
    last = [(column, piece) for column, piece in lines[limit - 1] if column + len(piece.text) < width]
    end = last[-1][0] + len(last[-1][1].text) if last else 0
    return [*lines[: limit - 1], [*last, (end, textflow.Piece("…", faint=True))]]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _quoted(token: str) -> str:
    return f"“{printable(token).strip() or '␣'}”"


def markdown(perturbations: pd.DataFrame, summary: dict, questions: dict[str, str]) -> str:
    """The worked example of Fig. 3 in full, as Markdown; `questions` maps a problem to its question."""
    parts = [
        "# Worked example of Fig. 3\n",
        "Chosen by rule: the forced candidate whose Jaccard is nearest its group's mean.\n",
    ]
    for group, row in examples(perturbations, summary).items():
        change = (
            f"Token {_code(row['token'])} at position {row['position']} ({100 * row['relative_position']:.0f}% of "
            f"the response, FAI {row['fai']:.3g}) forced to {_code(row['candidate'])} (rank {row['rank']}, "
            f"probability {row['probability']:.3g}); Jaccard {row['jaccard']:.3f}.\n"
        )
        parts += [
            f"## {TITLES[group]}: problem {row['problem']}\n",
            change,
            f"Question:\n\n{_fenced(questions.get(row['problem'], ''))}\n",
            f"Original continuation:\n\n{_fenced(row['original'])}\n",
            f"Continuation after the forced token:\n\n{_fenced(row['continuation'])}\n",
        ]
    return "\n".join(parts)


def _code(token: str) -> str:
    """A token as an inline code span: no Markdown or formula is read into it."""
    text = printable(token).strip() or "␣"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _fenced(text: str) -> str:
    ticks = "`" * max(
        3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0)
    )  # model text may hold a fence
    return f"{ticks}text\n{text}\n{ticks}"
