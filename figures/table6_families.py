"""Table 6: model families and sizes, GRPO against coupled-rhythm credit."""

from __future__ import annotations

from figures import accuracy, registry
from figures.tables import Table

BENCHMARKS = ("amc23", "math500", "olympiadbench", "minerva", "gsm8k")
FAMILIES = {
    "llama3_2_3b": "Llama-3.2-3B, 1K",
    "llama3_1_8b": "Llama-3.1-8B, 1K",
    "deepseek_r1_distill_llama_8b": "DeepSeek-R1-Distill-Llama-8B, 1K",
    "qwen3_0_6b": "Qwen3-0.6B, 1K",
    "qwen3_1_7b": "Qwen3-1.7B, 1K",
}


@registry.table("table6_families", needs=("evaluations", "model"), section="accuracy", place=4)
def make(evaluations: dict[str, dict], model: dict) -> Table:
    """Table 6; evaluations: strategy -> evaluation.json."""
    reported = accuracy.reported_rows("table6_families", FAMILIES, BENCHMARKS)
    title = "Table 6. Model families (accuracy, %), ours and the paper's."
    return accuracy.make(evaluations, reported, BENCHMARKS, title, model)
