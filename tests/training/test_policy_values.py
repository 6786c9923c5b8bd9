"""Token values of the embedded policy: its warm start, and what GRPO makes of it."""

import pandas as pd
import pytest

from attention_rhythm.files import read_json
from evaluation.settings import Run
from training import policy_values
from training.policy_values import stage, trained_policy
from training.settings import PolicyValuesSettings

SETTINGS = PolicyValuesSettings(
    problems=3,
    responses=3,
    screen=1,
    positions=4,
    samples=4,
    max_new_tokens=96,
    horizon=(5, 40),
    receiver_heads=2,
    steps=(0, 1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("policy"), seed=0)
    stage(run, SETTINGS)
    return run


def test_both_policies_are_studied_and_are_not_the_same(run):
    found = read_json(run.path("policy_values.json"))
    assert set(found["subjects"]) == set(found["scores"]) == {"warm", "grpo-1"}
    assert found["subjects"]["warm"]["model"] != found["subjects"]["grpo-1"]["model"]
    values = pd.read_parquet(run.path("policy_values.parquet"))
    measured = values[values["weight"] > 0].groupby(["subject", "response"]).size()
    assert len(measured) == 6
    assert (measured == 4).all()  # the chosen positions


def test_a_policy_is_trained_once(run, monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(policy_values, "train", never)
    folder = trained_policy(run, SETTINGS, 1)
    assert (folder / "model.safetensors").exists()
    assert not (folder.parent / "checkpoints").exists()
