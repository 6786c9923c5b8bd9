"""Accuracy of the model on every benchmark with its interval (no paper figure; Tables 3, 4 and 6 have the numbers)."""

from __future__ import annotations

from matplotlib.figure import Figure

from figures import registry
from figures.accuracy import BENCHMARKS, LABELS, UNTRAINED
from figures.style import GREY, PAGE, STRATEGIES, theme


@registry.figure(
    "fig_accuracy",
    needs=("evaluations",),
    section="accuracy",
    place=1,
    caption=(
        "Accuracy with its 95% interval; n is the number of problems. Where a generator stood in for a "
        "benchmark, its name stands at the axis."
    ),
)
@theme()
def draw(evaluations: dict[str, dict]) -> Figure:
    """One row a benchmark, one dot a model; evaluations: strategy -> evaluation.json. Percent, with 95% intervals."""
    tasks = list(dict.fromkeys(task["task"] for run in evaluations.values() for task in run["tasks"]))
    fig = Figure(figsize=(PAGE, 0.9 + 0.2 * len(tasks) + 0.05 * len(tasks) * len(evaluations)), layout="constrained")
    ax = fig.subplots()
    for number, (strategy, run) in enumerate(evaluations.items()):
        color = STRATEGIES.get(strategy, GREY)
        shift = 0.5 * (number + 0.5) / len(evaluations) - 0.25
        for task in run["tasks"]:
            y = tasks.index(task["task"]) + shift
            ax.plot(task["ci"], [y, y], color=color, lw=1.1, solid_capstyle="butt")
            ax.plot(task["accuracy"], y, marker="o", ms=3.5, color=color, clip_on=False, zorder=4)  # whole at 0% too
        ax.plot([], [], color=color, marker="o", ms=3.5, label=LABELS.get(strategy, strategy))
    ends = {task["task"]: task for run in evaluations.values() for task in run["tasks"]}
    names = [
        BENCHMARKS.get(name, name) if ends[name]["graded_as"] == name else ends[name]["graded_as"] for name in tasks
    ]
    labels = [f"{label} (n = {ends[task]['problems']})" for label, task in zip(names, tasks, strict=True)]
    ax.set_yticks(range(len(tasks)), labels)
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.set(xlim=(0, 100), xlabel="accuracy (%), 95% interval")
    ax.grid(axis="y", color="0.94", lw=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    if list(evaluations) != [UNTRAINED]:
        fig.legend(loc="outside lower center", ncols=3)
    return fig
