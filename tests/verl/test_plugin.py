"""What verl finds once it has loaded the plugin: a plugin that fails to load passes without a word in verl itself."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("verl")

import torch
from tensordict import TensorDict
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.workers.engine.base import EngineRegistry
from verl.workers.rollout.replica import RolloutReplicaRegistry

from attention_rhythm.integrations.verl.cpu_hf import HFReplica
from attention_rhythm.integrations.verl.engine import ReadsSignals, RhythmFSDPEngine, exported_copy, masks
from attention_rhythm.integrations.verl.trainer import RhythmTrainer, credit_metrics, entropy_ties


def test_the_entry_point_of_the_package_is_the_plugin():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["verl.plugins"].values()
    assert import_module(module).trainer.RhythmTrainer is RhythmTrainer


def test_trainer_engines_and_rollout_are_registered():
    assert get_trainer_cls("rhythm") is RhythmTrainer
    assert RolloutReplicaRegistry.get("hf") is HFReplica
    for backend in ("fsdp", "fsdp2"):
        assert EngineRegistry.get_engine_cls("language_model", backend) is RhythmFSDPEngine  # on this platform
        assert EngineRegistry._engines["language_model"][backend]["cuda", "nvidia"] is RhythmFSDPEngine
    assert issubclass(RhythmFSDPEngine, ReadsSignals)


def test_masks_by_hand():
    """Prompts of 2 and 1 tokens, responses of 1 and 3."""

    def nested(*lengths):
        return torch.nested.as_nested_tensor([torch.zeros(n, dtype=torch.long) for n in lengths], layout=torch.jagged)

    batch = TensorDict({"input_ids": nested(3, 4), "responses": nested(1, 3)}, batch_size=2)
    attention, response, lengths = masks(batch)
    assert lengths.tolist() == [3, 4]
    assert attention.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert response.int().tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]


def test_an_exported_copy_takes_tied_weights_once_and_refuses_what_does_not_fit(policy):
    weights = dict(policy.state_dict())  # holds the tied head under its own name too
    copy = exported_copy(weights.items(), policy.config)
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), policy.parameters(), strict=True))
    with pytest.raises(RuntimeError, match=r"has not exported model\.norm\.weight"):
        exported_copy(((n, w) for n, w in weights.items() if n != "model.norm.weight"), policy.config)
    with pytest.raises(RuntimeError, match="exports adapter"):
        exported_copy([*weights.items(), ("adapter", torch.zeros(1))], policy.config)


def test_metrics_by_hand():
    response = torch.tensor([[True, True, True], [True, False, False]])
    raw = torch.tensor([[1.0, 1.0, 1.0], [-2.0, 0.0, 0.0]])
    gamma = torch.tensor([[1.5, 1.0, 1.0], [1.5, 1.0, 1.0]])
    entropy = torch.tensor([[0.5, 0.5, 0.1], [0.5, float("nan"), float("nan")]])
    metrics = credit_metrics(response, raw, gamma, gamma * raw, entropy)
    assert metrics == pytest.approx(
        {
            "rhythm/gamma_coverage": 0.5,
            "rhythm/gamma_mean": 1.25,
            "rhythm/raw_advantage_mean": 0.25,
            "rhythm/raw_advantage_size": 1.25,
            "rhythm/shaped_advantage_mean": 0.125,
            "rhythm/shaped_advantage_size": 1.625,
            "rhythm/entropy_ties": 0.5,  # two of the four tokens
        }
    )
    assert "rhythm/entropy_ties" not in credit_metrics(response, raw, gamma, gamma * raw, None)
    assert entropy_ties(response, torch.arange(6.0).reshape(2, 3)) == 0
