"""Table 4: the mathematics benchmarks by credit strategy, for the paper's three settings."""

from __future__ import annotations

from figures import accuracy, registry
from figures.tables import Table

BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "olympiadbench")
SETTINGS = {
    "qwen3_4b_base_1k": "Qwen3-4B-Base, 1K",
    "qwen3_8b_base_1k": "Qwen3-8B-Base, 1K",
    "qwen3_4b_base_8k": "Qwen3-4B-Base, 8K",
}


@registry.table("table4_math", needs=("evaluations", "model"), section="accuracy", place=3)
def make(evaluations: dict[str, dict], model: dict) -> Table:
    """Table 4; evaluations: strategy -> evaluation.json. AIME is avg@16 in the paper, the rest pass@1."""
    reported = accuracy.reported_rows("table4_math", SETTINGS, BENCHMARKS)
    title = "Table 4. Mathematics (accuracy, %), ours and the paper's."
    return accuracy.make(evaluations, reported, BENCHMARKS, title, model)
