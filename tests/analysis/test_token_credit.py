"""Stage `credit`: gamma made from signals/ is the gamma that training would give the same response."""

from dataclasses import fields, replace

import pandas as pd
import pytest
import torch

from analysis import read_signals
from analysis.token_credit import (
    CREDIT_CHOICES,
    SIGNAL_CHOICES,
    SIGNALS,
    gamma_of,
    sensitivity,
    signals_of,
    stage,
    token_credit,
)
from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_npz
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from evaluation.settings import Run


def read(model, row):
    """What the stage `signals` writes of one response."""
    horizons = {**read_signals.HORIZONS, "fai_receiver": (4, None)}
    (arrays,) = read_signals.read(model, [row], horizons)
    return {"response": row["problem_id"], **arrays}


@pytest.fixture
def row():
    return {"problem_id": "p0", "prompt_ids": [5, 6, 7, 8], "response_ids": [(7 * i) % 29 + 1 for i in range(50)]}


def test_the_signals_are_those_of_training():
    assert SignalConfig() == SIGNALS


def test_gamma_is_that_of_training(tiny, row):
    model = tiny("qwen3")
    made = token_credit(read(model, row))
    ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
    response = torch.arange(ids.shape[1])[None] >= 4
    signals = attention_signals(model, ids, torch.ones_like(response), response)
    gamma = credit_weights(response, CreditConfig(), waad=signals.waad, fai=signals.fai)
    for name, expected in (("waad", signals.waad), ("fai", signals.fai), ("gamma", gamma)):
        torch.testing.assert_close(torch.tensor(made[name].to_numpy()), expected[0, 4:], equal_nan=True)
    assert set(made["gamma"]) - {1.0} and made["t"].tolist() == list(range(50))


def test_sensitivity_compares_each_choice_with_the_defaults(tiny, row):
    """Token by token for two choices; under the defaults all credit stays, under no choice more than there is."""
    response = read(tiny("qwen3"), row)
    made = pd.DataFrame(sensitivity(response, torch.Generator().manual_seed(0))).set_index(["name", "value"])
    default = (gamma_of(response, signals_of(response, SIGNALS), CreditConfig()) - 1).tolist()
    for key, signals, credit in (
        (("alpha", 0.25), SIGNALS, CreditConfig(alpha=0.25)),
        (("horizon", "0 to the end"), replace(SIGNALS, horizon=(0, None)), CreditConfig()),
    ):
        extra = (gamma_of(response, signals_of(response, signals), credit) - 1).tolist()
        assert made.loc[key, "stays"] == pytest.approx(sum(map(min, extra, default)))
        assert made.loc[key, "extra"] == pytest.approx(sum(extra))
        assert made.loc[key, "credited"] == sum(e != 0 for e in extra)
    assert made["default"].tolist() == pytest.approx([sum(default)] * len(made)) and sum(default) > 0
    assert (made["stays"] <= made[["default", "extra"]].min(axis=1) + 1e-6).all() and (made["tokens"] == 50).all()
    assert made.loc[("default", ""), "stays"] == made.loc[("default", ""), "default"]


def test_every_choice_of_the_configs_is_tried():
    """All fields but the paper's own hyper-parameters, what the ablations vary, and W, of which signals/ holds one."""
    given = {"quantile", "amplification", "select", "sign"}
    assert {f.name for f in fields(CreditConfig)} == set(CREDIT_CHOICES) | given
    assert {f.name for f in fields(SignalConfig)} == set(SIGNAL_CHOICES) | {"window"}


def test_the_stage_keeps_the_order_of_the_responses(tiny, row, tmp_path):
    run = Run(tmp_path)
    with pytest.raises(ReproError, match="no response"):
        stage(run)
    for number, name in enumerate(("p1", "p0")):
        write_npz(tmp_path / "signals" / f"{number:04d}.npz", **read(tiny("qwen3"), {**row, "problem_id": name}))
    stage(run)
    rows = pd.read_csv(tmp_path / "credit_sensitivity.csv")
    assert rows["choice"].is_monotonic_increasing and rows["response"].head(2).tolist() == ["p1", "p0"]
    made = pd.read_parquet(tmp_path / "token_credit.parquet")
    assert made["response"].drop_duplicates().tolist() == ["p1", "p0"] and len(made) == 100
