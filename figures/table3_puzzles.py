"""Table 3: Countdown and CrossThink-QA by credit strategy."""

from __future__ import annotations

from figures import accuracy, paper, registry
from figures.tables import Table

BENCHMARKS = ("countdown", "crossthink_qa")


@registry.table("table3_puzzles", needs=("evaluations", "model"), section="accuracy", place=2)
def make(evaluations: dict[str, dict], model: dict) -> Table:
    """Table 3; evaluations: strategy -> evaluation.json."""
    setting = "Qwen3-4B / 8B-Base, 1K"  # Countdown with the smaller, CrossThink-QA with the larger
    reported = {(setting, strategy): values for strategy, values in paper.reported()["table3_puzzles_qa"].items()}
    title = "Table 3. Puzzles and question answering (accuracy, %), ours and the paper's."
    return accuracy.make(evaluations, reported, BENCHMARKS, title, model)
