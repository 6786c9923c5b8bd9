"""Tables 3, 4 and 6: our accuracies beside the paper's, and the figure of them."""

import pandas as pd
import pytest

from attention_rhythm.files import write_json
from figures import fig_accuracy, table3_puzzles, table4_math, table6_families
from figures.inputs import Results

MODEL = {"spec": "tiny", "sha256": "0" * 64}


@pytest.fixture
def evaluations(results_root):
    return Results(results_root).evaluations


def cell(facts: pd.DataFrame, strategy: str, benchmark: str, setting: str = "") -> pd.Series:
    (row,) = facts[
        (facts["strategy"] == strategy) & (facts["benchmark"] == benchmark) & (facts["setting"] == setting)
    ].to_dict("records")
    return row


def test_the_untrained_model_stands_alone(evaluations):
    table = table3_puzzles.make(evaluations, MODEL)
    ours = cell(table.facts, "untrained", "countdown")
    assert (ours["ours"], ours["low"], ours["high"], ours["n_problems"]) == (0.0, 0.0, 16.1, 20)
    assert pd.isna(ours["paper"])
    assert pd.isna(cell(table.facts, "untrained", "crossthink_qa")["ours"])
    assert table.shown.iloc[0].tolist() == ["—", "untrained", "0.0 [0.0, 16.1] / —", "— / —"]


def test_every_strategy_of_the_paper_has_a_row_with_its_numbers(evaluations):
    facts = table3_puzzles.make(evaluations, MODEL).facts
    assert facts["strategy"].nunique() == 7
    setting = facts["setting"].unique()[1]
    assert cell(facts, "coupled_rhythm", "countdown", setting)["paper"] == 63.1
    assert cell(facts, "grpo", "crossthink_qa", setting)["paper"] == 48.0
    assert pd.isna(cell(facts, "grpo", "countdown", setting)["ours"])


def test_table_4_has_the_papers_three_settings(evaluations):
    table = table4_math.make(evaluations, MODEL)
    assert len(table.shown) == 1 + 3 * 6
    assert cell(table.facts, "coupled_rhythm", "aime25", "Qwen3-8B-Base, 1K")["paper"] == 12.3
    assert cell(table.facts, "local_chunk", "olympiadbench", "Qwen3-4B-Base, 8K")["paper"] == 51.5
    assert cell(table.facts, "untrained", "aime24")["metric"] == "avg@16"


def test_table_6_says_what_stood_in_for_a_benchmark(evaluations):
    table = table6_families.make(evaluations, MODEL)
    assert cell(table.facts, "untrained", "gsm8k")["graded_as"] == "gsm_symbolic"
    assert "gsm_symbolic pass@1 n = 20" in table.note
    assert cell(table.facts, "coupled_rhythm", "gsm8k", "Qwen3-0.6B, 1K")["paper"] == 59.7


def test_a_trained_model_stands_beside_every_setting(tmp_path, evaluations):
    write_json(tmp_path / "evaluation.json", evaluations["untrained"])
    trained = {"tasks": [{**evaluations["untrained"]["tasks"][2], "accuracy": 40.0, "ci": [22.0, 61.0]}]}
    write_json(tmp_path / "evaluations" / "coupled_rhythm" / "evaluation.json", trained)
    both = Results(tmp_path).evaluations
    table = table3_puzzles.make(both, MODEL)
    row = table.shown[table.shown["Strategy"] == "coupled rhythm"].iloc[0]
    assert row["Countdown"] == "40.0 [22.0, 61.0] / 63.1"
    assert len(fig_accuracy.draw(both).axes[0].get_yticks()) == 3


def test_the_figure_names_benchmark_and_number_of_problems(evaluations):
    labels = [text.get_text() for text in fig_accuracy.draw(evaluations).axes[0].get_yticklabels()]
    assert labels == ["gsm_symbolic (n = 20)", "AIME24 (n = 8)", "Countdown (n = 20)"]
