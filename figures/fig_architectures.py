"""Table 2's couplings without softmax: lifts in three architectures, trained and untrained (no paper figure).

    python -m figures.fig_architectures

Reads results/architectures/architectures.json, which `python -m training.architectures` writes; figure and table come
below it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json, shown
from figures.style import BLUE, GREY, PAGE, SKY, save, theme
from figures.table_sensitivity import SHORT
from figures.tables import Table, estimate, number, write

RESULTS = Path(__file__).resolve().parent.parent / "results" / "architectures"
SERIES = {  # label: weights, text, colour
    "trained, own responses": ("trained", "own", BLUE),
    "trained, shared worked solutions": ("trained", "shared", SKY),
    "untrained, the same responses": ("untrained", "own", GREY),
}
HORIZON = "band"  # the protocol's
ROWS = (  # of the table: weights, text, horizon
    ("trained", "own", "band"),
    ("untrained", "own", "band"),
    ("trained", "shared", "band"),
    ("trained", "own", "open"),
)


@theme()
def draw(statistics: pd.DataFrame) -> Figure:
    """One panel a statistic, one row a reading: lift over chance in percent, its 95% interval over problems."""
    readings = list(dict.fromkeys(statistics["reading"]))
    fig = Figure(figsize=(PAGE, 2.4), layout="constrained")
    axes = fig.subplots(1, len(SHORT), sharey=True)
    for ax, (name, label) in zip(axes, SHORT.items(), strict=True):
        for offset, (weights, text, color) in zip((-0.22, 0, 0.22), SERIES.values(), strict=True):
            for y, reading in enumerate(readings):
                row = one(statistics, reading, name, weights, text, HORIZON)
                if pd.isna(row["lift"]):
                    continue
                ax.plot(row["lift_ci"], [y + offset] * 2, color=color, lw=1.3, solid_capstyle="butt")
                ax.plot(row["lift"], y + offset, color=color, marker="o", ms=3.5)
        ax.axvline(0, color="0.6", lw=0.8, zorder=0)
        ax.set(xlabel=f"{label}: lift (%)")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(readings)), readings)
    axes[0].set_ylim(len(readings) - 0.5, -0.5)
    handles = [axes[0].plot([], [], color=color, marker="o", ms=3.5, label=k)[0] for k, (_, _, color) in SERIES.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def one(statistics: pd.DataFrame, reading: str, name: str, weights: str, text: str, horizon: str) -> pd.Series:
    """The one row of a reading, a statistic and how it was read."""
    key = {"reading": reading, "name": name, "weights": weights, "text": text, "horizon": horizon}
    return statistics[(statistics[list(key)] == pd.Series(key)).all(axis=1)].iloc[0]


def table(record: dict[str, Any]) -> Table:
    """Lifts of the three statistics by reading, with the policies' loss and accuracy; *: the coupling is there."""
    statistics, policies = pd.DataFrame(record["statistics"]), record["policies"]
    rows = []
    for reading in dict.fromkeys(statistics["reading"]):
        policy = policies[reading.split(",")[0]]
        for weights, text, horizon in ROWS:
            first = (weights, text, horizon) == ROWS[0]
            row = {
                "Reading": reading if first else "",
                "Read from": statistics.loc[statistics["reading"] == reading, "read_by"].iloc[0] if first else "",
                "Loss, nats": number(policy["held_out_loss"], 3) if first else "",
                "Accuracy, %": number(100 * policy["accuracy"]) if first else "",
                "Weights": weights,
                "Text": text,
                "FAI horizon": "10 to 100" if horizon == "band" else "0 to the end",
            }
            for name, label in SHORT.items():
                cell = one(statistics, reading, name, weights, text, horizon)
                lift = estimate(cell["lift"], *cell["lift_ci"])
                row[label] = f"{lift} *" if cell["there"] is True else lift
            row["n"] = str(int(cell["n_problems"]))
            rows.append(row)
    settings = record["settings"]
    note = (
        f"Countdown policies of {settings['steps']} warm-start steps on the same data, one seed each; lift over chance "
        "in percent, 95% bootstrap intervals over n problems. *: the interval lies above zero and above the untrained "
        "network's lift. Loss: held-out worked solutions, nats a token. Protocol: docs/experiments/architectures.md."
    )
    title = "Table 2 without softmax: couplings of WAAD, FAI and entropy in three architectures."
    facts = statistics.drop(columns=[c for c in statistics if c.endswith("_ci")]).assign(
        **{
            f"{c.removesuffix('_ci')}_{end}": [pair[i] for pair in statistics[c]]
            for c in statistics if c.endswith("_ci")
            for i, end in enumerate(("low", "high"))
        }
    )  # fmt: skip
    return Table(facts, pd.DataFrame(rows), title, note)


def main() -> int:
    """Draw and tabulate results/architectures/architectures.json."""
    record = read_json(RESULTS / "architectures.json")
    paths = save(draw(pd.DataFrame(record["statistics"])), RESULTS / "figures" / "fig_architectures")
    for path in [*paths, *write(table(record), RESULTS / "tables" / "architectures")]:
        print(f"written: {shown(path)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
