"""Figure and table of the experiment with power, from synthetic runs."""

import numpy as np
import pandas as pd
import pytest

from figures import fig_power, table_power
from figures.accuracy import LABELS
from training.experiment import variants_of
from training.power import ENDPOINTS, arms, contrasts, families
from training.settings import PowerSettings


@pytest.fixture(scope="module")
def power():
    settings = PowerSettings()
    usual, dosed = (list(variants_of(groups)) for groups in (settings.groups, settings.dosed))
    generator = np.random.default_rng(0)
    rows = [
        {"variant": variant, "seed": seed, **{name: 20 + generator.normal() for name in ENDPOINTS}}
        for variant in (*usual, *dosed)
        for seed in range(3)
    ]
    table = pd.DataFrame(rows)
    return {
        "settings": {"steps": 100},
        "recipe": {"credit": {"amplification": 1.5}},
        "arms": arms(table),
        "contrasts": contrasts(table, families(usual, dosed)),
    }


def test_every_arm_has_a_name_a_dose_and_both_baselines(power):
    table = table_power.make(power)
    assert len(table.shown) == 25
    assert set(table.shown["Arm"]) <= set(LABELS.values())
    own = table.shown[table.shown["Arm"] == "coupled rhythm, all six layers"]
    assert own["Dose"].tolist() == ["1.5", "4"]
    assert own["against random"].isin(["better", "worse", "not shown"]).all()
    grpo = table.shown[table.shown["Arm"] == "GRPO"].iloc[0]
    assert (grpo["Dose"], grpo["minus GRPO's"], grpo["against GRPO"]) == ("—", "—", "—")


def test_the_figure_has_a_row_an_arm_and_two_doses(power):
    fig = fig_power.draw(power)
    assert len(fig.axes[0].get_yticklabels()) == 12
    fig.canvas.draw()
