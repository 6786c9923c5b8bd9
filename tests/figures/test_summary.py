"""The summary of claims: every verdict follows from an interval, and what was not run says so."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from figures import fig_credit, fig_summary, style, table_summary, table_training, tables
from figures.inputs import MissingResult, Results
from figures.table_summary import VERDICTS
from training.experiment import variants_of


@pytest.fixture
def data(results_root):
    return Results(results_root)


@pytest.fixture
def build(data):
    """`build(training=..., evaluations=...)`: the facts, of synthetic results where nothing else is given."""

    def make(evaluations=None, **experiments):
        return table_summary.build(data.couplings, data.perturbation, evaluations or {}, experiments, 0)

    return make


def verdicts(facts, table):
    return facts[facts["table"] == table]["reproduced"].tolist()


def test_the_intervals_alone_decide(build):
    facts = build()
    # lift intervals [20, 80], [-5, 190], [-40, -10]; the paper's lifts are all above zero
    assert verdicts(facts, "Table 2") == ["yes", "not shown", "opposite"]
    # Pr 83 [60, 100] above 50, difference -0.2 [-0.3, -0.1] below 0
    assert verdicts(facts, "Table 1") == ["yes", "yes"]
    # the control has no number of the paper's, but its claim has a side: 66.7 [33, 100], -0.1 [-0.25, 0.05]
    assert verdicts(facts, "our control") == ["not shown", "not shown"]
    assert facts[facts["table"] == "our control"]["paper"].isna().all()
    assert set(facts["reproduced"]) <= set(VERDICTS)


def test_without_experiments_every_claim_of_section_5_is_not_run(build):
    facts = build().set_index("claim")
    later = facts[~facts["table"].isin(("Table 1", "Table 2", "our control"))]
    assert set(later["reproduced"]) == {"not run"} and later["ours"].isna().all() and later["paper"].notna().all()
    for claim, paper in (
        ("Countdown, coupled rhythm minus GRPO", 63.1 - 52.6),
        ("coupled rhythm, lowest 40% credited minus GRPO", 32.5 - 39.4),
        ("coupled rhythm, highest 20% credited minus coupled rhythm", 40.6 - 43.2),
        ("coupled rhythm, negative advantages only minus coupled rhythm", 40.8 - 43.2),
        ("coupled rhythm, layers of the whole model minus coupled rhythm", 35.1 - 39.2),
    ):
        assert facts.loc[f"{claim} (points)", "paper"] == pytest.approx(paper)


def test_experiments_are_paired_by_seed(build, experiment):
    trained = experiment(3)
    seeds = {"grpo": [30.0, 31.0, 32.0], "random": [30.0, 31.0, 32.0], "coupled_rhythm": [35.0, 36.5, 36.5]}
    for result in trained["results"]:
        result["by_seed"] = seeds.get(result["variant"], result["by_seed"])
    facts = build(training=trained).set_index("claim")
    row = facts.loc["Countdown, coupled rhythm minus GRPO (points)"]
    half = 4.302653 * np.std([5, 5.5, 4.5], ddof=1) / math.sqrt(3)  # Student's t with two degrees of freedom
    assert (row["ours"], row["low"], row["high"]) == pytest.approx((5.0, 5.0 - half, 5.0 + half))
    assert row["reproduced"] == "yes" and row["seeds"] == 3 and row["n"] == 512
    assert facts.loc["Countdown, random credit minus GRPO (points)", "reproduced"] == "not shown"  # all zero
    assert facts.loc["Countdown, local chunk minus GRPO (points)", "reproduced"] == "not run"


def test_one_seed_shows_nothing_and_more_seeds_take_its_place(build, experiment):
    claim = "Countdown, coupled rhythm minus GRPO (points)"
    one = build(training=experiment(1)).set_index("claim").loc[claim]
    assert one["ours"] == 5.0 and math.isnan(one["low"]) and one["reproduced"] == "not shown"
    facts = build(training=experiment(1), training_extended=experiment(4), ablations=experiment(2)).set_index("claim")
    assert facts.loc[claim, "seeds"] == 4
    assert facts.loc["coupled rhythm, lowest 40% credited minus GRPO (points)", ["ours", "seeds"]].tolist() == [-5.0, 2]


def evaluated(accuracy, half, **graded_as):
    names = ("aime24", "aime25", "amc23", "math500", "olympiadbench")
    tasks = [
        {"task": name, "graded_as": graded_as.get(name, name), "accuracy": accuracy, "problems": 100,
         "ci": [accuracy - half, accuracy + half]}
        for name in names
    ]  # fmt: skip
    return {"tasks": tasks}


def test_trained_models_need_every_benchmark_itself(build):
    runs = {"grpo": evaluated(30.0, 3.0), "coupled_rhythm": evaluated(36.0, 4.0)}
    row = build(runs).set_index("claim").loc["Mathematics (Qwen3-4B-Base, 1K), coupled rhythm minus GRPO (points)"]
    # each difference is 6 +- sqrt(3^2 + 4^2) = 5; the mean of five independent ones is 6 +- 5 / sqrt(5)
    assert (row["ours"], row["low"]) == pytest.approx((6.0, 6.0 - math.sqrt(5)))
    assert row["reproduced"] == "yes" and row["n"] == 500
    runs["grpo"] = evaluated(30.0, 3.0, math500="something_generated")
    assert set(build(runs).query("table == 'Table 4'")["reproduced"]) == {"not run"}


def test_the_table_and_its_words_are_the_facts(data, build):
    table = table_summary.make(data.couplings, data.perturbation, {}, {}, data.model, 0)
    assert table.shown.columns.tolist() == ["Claim", "From", "Paper", "Ours [95%]", "n", "Seeds", "Reproduced?"]
    first, control = table.shown.iloc[0], table.shown[table.shown["From"] == "our control"].iloc[1]
    assert first.tolist()[1:] == ["Table 2", "52.0", "50.0 [20.0, 80.0]", "6", "1", "yes"]
    assert control["Ours [95%]"] == "-0.100 [-0.250, 0.050]" and control["Paper"] == "—"
    words = table_summary.reading(build()).splitlines()
    assert len(words) == 4 and words[0].startswith("- **yes**, 3 of ") and "FAI peaks at or right" in words[2]


def test_the_figure_draws_what_was_run(build, experiment):
    for facts in (build(), build(training=experiment(1)), build(training=experiment(3), ablations=experiment(2))):
        fig = fig_summary.draw(facts)
        rows = sum(len(ax.get_yticks()) for ax in fig.axes)
        assert rows == (facts["reproduced"] != "not run").sum()
        with style.theme():
            fig.canvas.draw()


def test_the_papers_ablations_by_hand(build):
    facts = build().set_index("claim")
    for claim, paper in (
        ("coupled rhythm, layers of the whole model minus coupled rhythm", 35.1 - 39.2),
        ("local chunk, all heads minus local chunk", 36.6 - 38.6),
        ("local chunk, WAAD window 5 (not 10) minus local chunk", 37.2 - 38.6),
        ("global anchor, FAI over 0 to 40 (not 5 to 40) minus global anchor", 34.8 - 38.2),
        ("global anchor, FAI over 5 to the end (not 5 to 40) minus global anchor", 37.4 - 38.2),
    ):
        assert facts.loc[f"{claim} (points)", "paper"] == pytest.approx(paper)


def test_every_ablation_has_a_claim_and_a_number():
    names = {row[1] for row in table_summary.ABLATIONS}
    assert names == set(table_training.PAPER) == set(variants_of(["table5", "table7a", "table9", "table14", "table19"]))


def test_the_papers_difference_stands_beside_ours(experiment):
    assert table_training.papers_gain("coupled_rhythm", "random") == pytest.approx(63.1 - 55.0)
    assert table_training.papers_gain("coupled_bottom40", "grpo") == pytest.approx(32.5 - 39.4)
    assert table_training.papers_gain("layers_top", "random") == pytest.approx(36.4 - 37.1)
    assert table_training.papers_gain("local_all_heads", "grpo") == pytest.approx(36.6 - 37.1)
    assert table_training.papers_gain("global_lo10", "grpo") == pytest.approx(37.2 - 37.1)  # H_lo 20: twice the default
    assert math.isnan(table_training.papers_gain("another", "grpo"))
    with style.theme():
        fig_credit.draw(experiment(2)).canvas.draw()


def test_a_bar_in_a_cell_does_not_end_it():
    frame = pd.DataFrame({"a": ["x | y"]})
    assert r"| x \| y |" in tables.Table(frame, frame, "title", "note").markdown()


def test_credit_is_joined_to_its_token(data, tmp_path):
    tokens = data.credited_tokens
    assert len(tokens) == len(data.tokens) and (tokens["gamma"] == np.where(tokens["fai_peak"], 1.5, 1.0)).all()
    with pytest.raises(MissingResult, match="stage 'couplings'"):
        _ = Results(tmp_path).credited_tokens
