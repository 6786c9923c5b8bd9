"""Stage `credit`: gamma made from signals/ is the gamma that training would give the same response."""

import pandas as pd
import pytest
import torch

from analysis import read_signals
from analysis.signals import SignalConfig, attention_signals
from evaluation.artifacts import ReproError, Run, write_npz
from training.credit import CreditConfig, credit_weights
from training.token_credit import SIGNALS, stage, token_credit


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


def test_gamma_is_that_of_training(new_model, row):
    model = new_model()
    made = token_credit(read(model, row))
    ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
    response = torch.arange(ids.shape[1])[None] >= 4
    signals = attention_signals(model, ids, torch.ones_like(response), response)
    gamma = credit_weights(response, CreditConfig(), waad=signals.waad, fai=signals.fai)
    for name, expected in (("waad", signals.waad), ("fai", signals.fai), ("gamma", gamma)):
        torch.testing.assert_close(torch.tensor(made[name].to_numpy()), expected[0, 4:], equal_nan=True)
    assert set(made["gamma"]) - {1.0} and made["t"].tolist() == list(range(50))


def test_the_stage_keeps_the_order_of_the_responses(new_model, row, tmp_path):
    run = Run(tmp_path, "toy", {}, 0, "toy")
    with pytest.raises(ReproError, match="no response"):
        stage(run)
    for number, name in enumerate(("p1", "p0")):
        write_npz(tmp_path / "signals" / f"{number:04d}.npz", **read(new_model(), {**row, "problem_id": name}))
    stage(run)
    made = pd.read_parquet(tmp_path / "token_credit.parquet")
    assert made["response"].drop_duplicates().tolist() == ["p1", "p0"] and len(made) == 100
