"""How well each signal finds the tokens that change the outcome (no paper figure)."""

from __future__ import annotations

from matplotlib.figure import Figure

from figures import registry
from figures.inputs import STUDIES
from figures.style import BLACK, BLUE, GREEN, GREY, PAGE, PURPLE, RED, theme
from figures.table_token_values import NAMES, build, subject_called

GROUPS = (  # heading, colour, choices of tokens
    ("controls", GREY, ("random", "early", "late")),
    ("uncertainty", GREEN, ("entropy", "surprisal")),
    ("preplan", BLUE, ("waad", "waad_change", "waad_peak")),
    ("anchor", RED, ("fai", "fai_peak", "receiver_fai")),
    ("credit", BLACK, ("local_chunk", "global_anchor", "coupled_rhythm")),
    ("other papers", PURPLE, ("attention_flow", "answer_gradient", "masking")),
)
CAPTION = (
    "How much more of the squared value change a choice of tokens holds than as many tokens by chance. Dots: against "
    "tokens of the same place and kind, with 95% intervals over responses; rings: against all tokens."
)


@theme()
def draw(study: dict) -> Figure:
    """One panel a subject, one row a signal: lift within place and kind with its 95% interval, and over all tokens."""
    facts = build(study)
    subjects = list(study["scores"])
    fig = Figure(figsize=(PAGE, 4.1), layout="constrained")
    axes = fig.subplots(1, len(subjects), sharey=True, sharex=True, squeeze=False)[0]
    rows = [(name, color) for _, color, names in GROUPS for name in names]
    for ax, subject in zip(axes, subjects, strict=True):
        own = facts[facts["subject"] == subject].set_index("name")
        for y, (name, color) in enumerate(rows):
            row = own.loc[name]
            ax.plot([row["within_low"], row["within_high"]], [y, y], color=color, lw=1.4, solid_capstyle="butt")
            ax.plot(row["within"], y, color=color, marker="o", ms=4.5)
            ax.plot(row["lift"], y, color=color, marker="o", ms=4.5, mfc="none", mew=0.8, alpha=0.7)
        ax.axvline(1, color="0.6", lw=0.8, zorder=0)
        ax.set(xlabel="lift over chance", title=f"{subject_called(subject)}, n = {own['responses'].iloc[0]}")
        ax.set_xlim(left=0)
        ax.grid(axis="y", color="0.94", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        for _, edge in _headings():
            if edge:
                ax.axhline(edge - 0.5, color="0.8", lw=0.5)
    axes[0].set_yticks(range(len(rows)), [NAMES[name] for name, _ in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    handles = [
        axes[0].plot([], [], color="0.3", marker="o", ms=4.5, label="among tokens of the same place and kind, 95%")[0],
        axes[0].plot([], [], color="0.3", marker="o", ms=4.5, mfc="none", ls="", label="among all tokens")[0],
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _headings() -> list[tuple[str, int]]:
    """Each group with its first row."""
    found, row = [], 0
    for heading, _, names in GROUPS:
        found.append((heading, row))
        row += len(names)
    return found


for _place, _study in enumerate(STUDIES):
    registry.figure(
        f"fig_{_study}",
        needs=(_study,),
        section="token-values",
        place=10 * _place + 1,
        caption=CAPTION,
        experiment=_study,
    )(draw)
