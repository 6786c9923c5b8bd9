"""Cells of every table against numbers worked out by hand from the synthetic results, and how tables are written."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from figures import (
    paper,
    table1_perturbation,
    table2_couplings,
    table10_layers,
    table20_overlap,
    table_controls,
    table_correctness,
    table_credit_sensitivity,
    table_knockout,
    table_sensitivity,
    tables,
)
from figures.inputs import Results

NAN = float("nan")


@pytest.fixture(scope="module")
def data(results_root):
    return Results(results_root)


@pytest.mark.parametrize(
    "low, high, reported, null, verdict",
    [
        (1, 2, 50, 0, "yes"),
        (-2, -1, 50, 0, "opposite"),
        (-1, 1, 50, 0, "not shown"),
        (0, 1, 50, 0, "not shown"),  # the interval touches no effect
        (-2, -1, -5, 0, "yes"),
        (55, 90, 87.14, 50, "yes"),
        (10, 45, 87.14, 50, "opposite"),
        (NAN, 1, 50, 0, "—"),
        (None, None, 50, 0, "—"),
        (1, 2, NAN, 0, "—"),
    ],
)
def test_same_side(low, high, reported, null, verdict):
    assert paper.same_side(low, high, reported, null) == verdict


def test_paper_numbers():
    assert paper.coupling("waad_peak_entropy") == {"random": 0.2386, "observed": 0.3608, "lift": 51.97}
    assert paper.coupling("fai_follows_or_coincides_waad", "middle") == {
        "random": 41.08,
        "observed": 51.69,
        "lift": 25.83,
    }


def test_table2(data):
    facts = table2_couplings.build(data.couplings, seed=3).set_index("statistic")
    entropy = facts.loc["waad_peak_entropy"]
    assert (entropy["random"], entropy["observed"], entropy["lift"]) == (0.2, 0.3, 50.0)
    assert (entropy["lift_low"], entropy["lift_high"], entropy["paper_lift"]) == (20.0, 80.0, 51.97)
    assert (entropy["n_problems"], entropy["seed"]) == (6, 3)
    assert facts["same_sign"].tolist() == ["yes", "not shown", "opposite"]
    text = table2_couplings.make(data.couplings, data.model, 3)
    row = text.shown.iloc[0].tolist()
    assert row == [
        "Entropy at WAAD peaks (nats)", "0.200", "0.300 [0.270, 0.330]", "50.0 [20.0, 80.0]", "6", "0.239", "0.361",
        "52.0", "yes"
    ]  # fmt: skip
    for said in ("n = 6 problems", "seed 3", "95%", "synthetic", "peak = prominence"):
        assert said in text.note


def test_table2_keeps_the_row_of_a_missing_or_undefined_statistic(data):
    first = {
        **data.couplings["statistics"][0],
        "lift": None,
        "lift_ci": None,
        "observed": None,
        "observed_ci": [None, None],
    }
    facts = table2_couplings.build({**data.couplings, "statistics": [first]}, 0)
    shown = table2_couplings.shown(facts)
    assert shown["Lift % [95%]"].tolist() == ["—", "—", "—"]
    assert shown["Same sign?"].tolist() == ["—", "—", "—"]
    assert shown["lift %"].tolist() == ["52.0", "171.5", "42.5"]
    assert "no interval to judge by" in table2_couplings.reading(facts)


def test_table2_in_words_follows_the_numbers(data):
    lines = table2_couplings.reading(table2_couplings.build(data.couplings, 0)).splitlines()
    assert "0.300 nats" in lines[0] and "on the paper's side of zero" in lines[0]
    assert "holds zero" in lines[1]
    assert "**other** side of zero" in lines[2]


def test_couplings_under_controls(data):
    table = table_controls.make(data.controls, data.model, 0)
    assert len(table.shown) == 4
    first = table.facts.iloc[0]
    assert first["none_lift_low"] <= first["none_lift"] <= first["none_lift_high"]
    assert table.shown["Statistic"].iloc[-1] == table_controls.PREDICTED_LABEL


def test_grades_of_a_coupling():
    grade = table_controls.grade
    assert grade([10, 20], [1, 5], 40) == "holds under controls"
    assert grade([10, 20], [-1, 5], 40) == "holds in the paper's reading only"
    assert grade([-1, 5], [1, 5], 40) == "not shown"
    assert grade([-9, -5], [1, 5], 40) == "opposite"


def test_table10(data):
    facts = table10_layers.build(data.couplings, 0)
    assert facts["layers"].tolist() == ["top", "middle", "bottom"] * 3
    assert facts["paper_lift"].tolist() == [38.31, 25.57, 52.31, 296.42, 127.06, 105.18, 59.96, 25.83, 36.52]
    assert facts["statistic"].tolist()[::3] == list(paper.STATISTICS)


def test_table1(data):
    facts = table1_perturbation.build(data.perturbation, seed=0)
    means = facts[(facts["measure"] == "mean") & (facts["tokens"] == "all")].set_index("group")
    assert means["value"].to_dict() == {"top": 0.5, "bottom": 0.7, "matched": 0.6}
    assert means["paper"].tolist()[:2] == [0.534, 0.631] and math.isnan(means["paper"].iloc[2])
    claims = facts[facts["measure"] != "mean"]
    compared = claims[claims["tokens"] == "all"].set_index(["measure", "against"])
    assert compared.loc[("pr_less", "bottom"), ["value", "paper", "same_sign"]].tolist() == [83.3, 87.14, "yes"]
    assert compared.loc[("difference", "bottom"), "paper"] == pytest.approx(-0.097)
    assert compared.loc[("difference", "bottom"), "same_sign"] == "yes"
    assert compared.loc[("difference", "matched"), "same_sign"] == "not shown"
    assert compared["p_value"].tolist() == [0.22, 0.03, 0.69, 0.2]  # each of its own test
    assert compared.loc[("difference", "matched"), "visible"] == 0.21
    words = claims[claims["tokens"] == "word"].set_index("measure")
    assert words.loc["difference", "same_sign"] == "opposite" and math.isnan(words.loc["difference", "paper"])
    empty = facts[(facts["tokens"] == "punctuation") & (facts["group"] == "top")].iloc[0]
    assert math.isnan(empty["value"]) and empty["n_positions"] == 0
    shown = table1_perturbation.shown(facts).set_index("Quantity")
    assert shown.loc["Jaccard, high FAI (punctuation tokens only)", "Ours [95%]"] == "—"
    assert shown.loc["Jaccard, high FAI", "Ours [95%]"] == "0.500 [0.450, 0.550]"


def test_table1_in_words_has_the_controlled_difference_of_each_kind(data):
    said = table1_perturbation.reading(table1_perturbation.build(data.perturbation, seed=0)).split("\n")
    assert len(said) == 4 + 1
    assert "(word tokens only)**: 0.100" in said[-1] and "**against** the paper" in said[-1]


def test_table20(data):
    facts = table20_overlap.build(data.peak_overlap, seed=0).set_index("pair")
    # exact is 20, 30, ... 70 over the six responses: mean 45, inside 24.4 to 50.0 only
    assert facts["exact"].tolist() == [45.0] * 4
    assert facts["in_paper_range"].to_dict() == {
        "receiver_fai_vs_global_fai": "no", "receiver_fai_vs_waad": "no", "global_fai_vs_waad": "no",
        "waad_vs_entropy": "yes"
    }  # fmt: skip
    row = facts.loc["waad_vs_entropy"]
    assert (row["exact_min"], row["exact_max"], row["n_responses"], row["n_peaks"]) == (20, 70, 6, 150)
    assert row["exact_low"] < 45 < row["exact_high"]


def test_table20_without_a_pair(data):
    facts = table20_overlap.build(data.peak_overlap.query("pair != 'waad_vs_entropy'"), 0).set_index("pair")
    assert facts.loc["waad_vs_entropy", "in_paper_range"] == "—"
    assert table20_overlap.shown(facts.reset_index())["Exact % [95%]"].iloc[3] == "—"


def test_sensitivity():
    base = {
        "head_scope": "response",
        "horizon": "end",
        "head_fraction": 0.3,
        "random": 1,
        "observed": 1,
        "n_problems": 6,
    }
    frame = pd.DataFrame(
        {
            "statistic": name,
            "peak": peak,
            "row": "token",
            "layers": "all",
            "lift": lift,
            "lift_low": lift - 5,
            "lift_high": lift + 5,
        }
        | base
        for peak, lifts in (("prominence", (10, 2, -10)), ("quantile", (20, 30, 40)))
        for name, lift in zip(paper.STATISTICS, lifts, strict=True)
    )
    shown = table_sensitivity.shown(table_sensitivity.build(frame, 0))
    assert shown.iloc[0, 6:9].tolist() == ["10.0 [5.0, 15.0] *", "2.0 [-3.0, 7.0]", "-10.0 [-15.0, -5.0] †"]
    assert shown["Same sign, of 3"].tolist() == ["1", "3", ""]
    assert shown.iloc[-1, 6:9].tolist() == ["52.0", "171.5", "42.5"]
    words = table_sensitivity.reading(table_sensitivity.build(frame, 0)).splitlines()
    assert "from -10.0% to 40.0% over 2 conventions" in words[2] and "side of zero in 1, on the other in 1" in words[2]


def test_credit_sensitivity_sums_over_responses_and_then_divides():
    """Two responses under one choice: (1 + 2) of (2 + 10) units of credit stay, 5 of 20 tokens are credited."""
    common = {"choice": 3, "name": "horizon", "value": "0 to the end"}
    frame = pd.DataFrame(
        [
            common | {"response": "a", "stays": 1.0, "default": 2.0, "credited": 1, "extra": 0.5, "tokens": 8},
            common | {"response": "b", "stays": 2.0, "default": 10.0, "credited": 4, "extra": 1.5, "tokens": 12},
        ]
    )
    facts = table_credit_sensitivity.build(frame, seed=0)
    row = facts.iloc[0]
    assert row["stays"] == pytest.approx(25) and (row["stays_low"], row["stays_high"]) == pytest.approx((20, 50))
    assert row["credited"] == pytest.approx(25) and row["gamma"] == pytest.approx(1.1) and row["n_responses"] == 2
    shown = table_credit_sensitivity.shown(facts).iloc[0].tolist()
    assert shown == ["rows that count for FAI", "0 to the end", "25.0 [20.0, 50.0]", "25.0", "1.100", 2]
    too_short = frame.assign(stays=0.0, default=0.0, credited=0, extra=0.0)
    assert table_credit_sensitivity.shown(table_credit_sensitivity.build(too_short, 0)).iloc[0, 2] == paper.MISSING


def test_a_table_is_written_in_three_forms(tmp_path, data):
    table = table2_couplings.make(data.couplings, data.model, 0)
    markdown, csv, latex = tables.write(table, tmp_path / "table2")
    assert markdown.read_text().splitlines()[2].startswith("| Statistic")
    assert pd.read_csv(csv)["lift"].tolist() == [50.0, 150.0, -25.0]
    text = latex.read_text()
    assert r"\toprule" in text and r"\bottomrule" in text and r"Lift \% [95\%]" in text and r"\caption{" in text
    assert not list(tmp_path.glob(".tmp-*"))


def test_latex_escapes():
    frame = pd.DataFrame({"a_b": ["50% & more_"]})
    text = tables.Table(frame, frame, "100% of #1", "x_y \\boxed{1}").latex()
    for said in (r"a\_b", r"50\% \& more\_", r"100\% of \#1", r"x\_y \textbackslash boxed\{1\}"):
        assert said in text


def test_the_knock_out_has_a_row_a_way_and_class():
    measured = {"high": 0.02, "control": 0.01, "difference": 0.01, "ci": [0.005, 0.015], "p_value": 0.01}
    pair = {"way": "moved", "class": "word", "mass_ratio": 1.1, "fai_ratio": 4.0, "pairs": 9, "responses": 5}
    study = {"settings": {"distances": 100, "mass_ratio": 1.5}, "pairs": [pair | {"kl": measured, "rest": measured}]}
    table = table_knockout.make(study, {"spec": "x", "sha256": "0" * 64}, 0)
    row = table.shown.iloc[0]
    assert (row["difference [95%]"], row["of the answer [95%]"], row["Missed more?"]) == (
        "0.0100 [0.0050, 0.0150]", "—", "yes"
    )  # fmt: skip


def test_answers_that_are_lost_at_high_fai():
    def group(stays, own):
        return {"stays": stays, "ci": [stays - 0.1, stays + 0.1], "own": own, "other": own + stays, "problems": 9,
                "positions": 18}  # fmt: skip

    study = {
        "settings": {"samples": 8}, "responses": 9, "of": 70,
        "groups": {"top": group(-0.3, 0.9), "bottom": group(-0.1, 0.95)},
        "comparisons": [{"name": "top_vs_bottom", "difference": -0.2, "difference_ci": [-0.35, -0.05], "p_value": 0.02,
                         "visible": 0.21, "problems": 9}],
    }  # fmt: skip
    shown = table_correctness.make(study, {"spec": "x", "sha256": "0" * 64}, 0).shown.set_index("Positions")
    assert shown.loc["high FAI", "Lost, points [95%]"] == "30.0 [20.0, 40.0]"
    assert shown.loc["high FAI", "Right, another token (%)"] == "60.0"
    row = shown.loc["high FAI minus low FAI"]
    assert (row["Lost, points [95%]"], row["More are lost?"]) == ("20.0 [5.0, 35.0]", "yes")
