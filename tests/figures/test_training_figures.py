"""Training curves, differences and tables over seeds, from a synthetic experiment."""

import tomllib

import numpy as np
import pytest

from figures import fig_credit, fig_training, table_training
from figures.accuracy import LABELS
from figures.fig_training import over_seeds, ratchet
from pipeline.manifest import ROOT


def test_the_papers_smoothing_never_falls():
    values = ratchet(np.array([0.2, 0.4, 0.1, 0.1, 0.5]), a=0.5)
    np.testing.assert_allclose(values, [0.2, 0.3, 0.3, 0.3, 0.4])


def test_mean_and_interval_over_seeds(training_curves):
    summary = over_seeds(training_curves[lambda c: c["variant"] == "grpo"], "eval_sampled")
    assert summary.loc[4, "mean"] == pytest.approx(0.24)
    assert summary.loc[4, "high"] - 0.24 == pytest.approx(4.3027 * 0.04 / np.sqrt(3), rel=1e-3)
    one = over_seeds(training_curves[lambda c: (c["variant"] == "grpo") & (c["seed"] == 0)], "eval_sampled")
    assert one["low"].isna().all()


def test_a_panel_for_every_quantity_that_was_logged(training_curves):
    fig = fig_training.draw(training_curves, with_ratchet=True)
    assert [ax.get_ylabel() for ax in fig.axes] == [
        "held-out accuracy,\nT = 1 (%)", "training reward (batch mean)", "token entropy (nats)"
    ]  # fmt: skip
    assert "GRPO (3 seeds)" in [text.get_text() for text in fig.legends[0].get_texts()]


@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_from_both_baselines(experiment, seeds):
    fig = fig_credit.draw(experiment(seeds))
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels == ["random credit", "coupled rhythm", "coupled rhythm, lowest 40% credited"]
    assert len(fig.axes) == 2


def test_the_table_has_ours_and_the_papers(experiment):
    table = table_training.make(experiment(), "Title")
    row = table.facts.set_index("variant").loc["coupled_rhythm"]
    assert (row["accuracy"], row["accuracy_low"], row["less_grpo"], row["paper"]) == (35, 32, 5, 63.1)
    assert table.facts.set_index("variant").loc["coupled_bottom40", "paper"] == 32.5
    shown = table.shown.set_index("Variant").loc["coupled rhythm"]
    assert shown["Minus GRPO [95%]"] == "5.0 [3.0, 7.0]" and shown["p"] == "0.040"
    assert "512" in table.note and "seeds [0, 1]" in table.note


def test_one_seed_has_dashes_for_intervals(experiment):
    shown = table_training.make(experiment(1), "Title").shown.set_index("Variant").loc["coupled rhythm"]
    assert shown["Accuracy % [95%]"] == "35.0" and shown["p"] == "—"


def test_every_variant_has_a_name_that_a_reader_understands():
    groups = tomllib.loads((ROOT / "training" / "configs" / "variants.toml").read_text())
    names = {name for group in groups.values() for name in group}
    assert names <= LABELS.keys() and len(set(LABELS.values())) == len(LABELS)
