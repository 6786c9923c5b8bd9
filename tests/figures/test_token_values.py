"""Figures and tables of token values, from a synthetic study."""

import numpy as np
import pandas as pd
import pytest

from analysis.token_signals import CREDITS, SIGNALS
from figures import fig_token_values, fig_value_paths, table_token_kinds, table_token_mechanisms, table_token_values
from figures.inputs import Results
from figures.table_token_values import called


@pytest.fixture
def data(results_root):
    return Results(results_root)


def test_every_signal_and_credit_has_a_name():
    names = [called(name) for name in (*SIGNALS, *CREDITS, "waad_peak", "fai_peak")]
    assert len(set(names)) == len(names)
    assert called("coupled_rhythm_all_layers_row_before") == "coupled-rhythm credit, all layers, row before"


def test_the_table_has_a_row_a_subject_and_signal(data):
    table = table_token_values.make(data.get("policy_values"))
    assert len(table.shown) == len(table.facts) == 2 * (len(SIGNALS) + len(CREDITS) + 2)
    own = table.facts[(table.facts["subject"] == "warm") & (table.facts["name"] == "random")].iloc[0]
    assert own["within_low"] <= own["within"] <= own["within_high"]
    assert own["coverage"] == pytest.approx(0.4, abs=0.02)


def test_the_other_tables(data):
    study = data.get("policy_values")
    kinds = table_token_kinds.make(study)
    by_class = kinds.facts[(kinds.facts["subject"] == "warm") & (kinds.facts["column"] == "kind")]
    assert by_class["share"].sum() == pytest.approx(1)
    mechanisms = table_token_mechanisms.make(study)
    assert set(mechanisms.facts["verdict"]) <= {"yes", "no, less", "not shown"}
    assert len(mechanisms.shown) == 6


def test_figures_draw_what_is_there(data):
    fig = fig_token_values.draw(data.get("policy_values"))
    assert len(fig.axes) == 2
    paths = fig_value_paths.draw(data.get("policy_values_tokens"))
    values = paths.axes[0].lines[0].get_ydata()
    assert (values >= 0).all() and (values <= 1).all()
    assert values[-1] == 1  # the right response is drawn first


def test_responses_that_are_drawn_change_most():
    tokens = pd.DataFrame({"subject": "warm", "response": np.repeat([0, 1, 2], 30), "t": [*range(30)] * 3,
                           "right": np.repeat([True, True, False], 30), "before": 0.0,
                           "after": np.repeat([0.1, 0.3, 0.2], 30)})  # fmt: skip
    assert [own["response"].iloc[0] for own in fig_value_paths.chosen(tokens)] == [1, 2]
