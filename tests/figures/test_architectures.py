"""Figure and table of the couplings in three architectures, from a synthetic record."""

import itertools

import pandas as pd
import pytest

from attention_rhythm.files import read_json
from figures import fig_architectures
from figures.table_sensitivity import SHORT

READINGS = {"softmax": "attention", "mamba2": "|A| normalised by row"}


@pytest.fixture
def record():
    """Trained lifts of 20%, untrained ones of 5%; Mamba-2's of FAI peaks undefined."""
    statistics = []
    for reading, weights, text, horizon, name in itertools.product(
        READINGS, ("trained", "untrained"), ("own", "shared"), ("band", "open"), SHORT
    ):
        lift = 20.0 if weights == "trained" else 5.0
        if reading == "mamba2" and name.startswith("fai"):
            lift = None
        statistics.append(
            {
                "reading": reading, "read_by": READINGS[reading], "weights": weights, "text": text, "horizon": horizon,
                "name": name, "n_problems": 12, "lift": lift, "lift_ci": [lift and lift - 2, lift and lift + 2],
                "there": None if weights == "untrained" else lift is not None,
            }
        )  # fmt: skip
    policies = {name: {"held_out_loss": 0.5, "accuracy": 0.25} for name in READINGS}
    return {"statistics": statistics, "policies": policies, "settings": {"steps": 500}}


def test_the_table_marks_what_is_there(record):
    table = fig_architectures.table(record)
    assert list(table.shown["Reading"]) == ["softmax", "", "", "", "mamba2", "", "", ""]
    assert table.shown["Entropy at WAAD peaks"].tolist()[:2] == ["20.0 [18.0, 22.0] *", "5.0 [3.0, 7.0]"]
    assert table.shown["FAI after WAAD"].tolist()[4] == "—"
    assert {"lift_low", "lift_high"} <= set(table.facts) and len(table.facts) == len(record["statistics"])


def test_the_figure_has_a_row_a_reading_and_a_panel_a_statistic(record):
    fig = fig_architectures.draw(pd.DataFrame(record["statistics"]))
    fig.canvas.draw()
    assert len(fig.axes) == len(SHORT)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(READINGS)


def test_what_the_docs_say_of_the_recorded_run_is_so():
    record = read_json(fig_architectures.RESULTS / "architectures.json")
    statistics = pd.DataFrame(record["statistics"])

    def there(name):
        readings = dict.fromkeys(statistics["reading"])
        return {r: fig_architectures.one(statistics, r, name, "trained", "own", "band")["there"] for r in readings}

    assert there("waad_peak_entropy") == {
        "softmax": True, "hybrid, gated DeltaNet layers": False, "hybrid, softmax layers": True, "mamba2": True,
    }  # fmt: skip
    assert set(there("fai_follows_or_coincides_waad").values()) == {False}
    assert max(record["policies"].items(), key=lambda item: item[1]["held_out_loss"])[0] == "softmax"
