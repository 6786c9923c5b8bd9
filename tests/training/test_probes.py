"""Probe responses: read by the policy that made them nothing has changed; by another one it has."""

import numpy as np
import pytest
import torch

from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles
from training.experiment import ROOT
from training.probes import CONVENTIONS, _rank, make_probes, probe_statistics

POLICY = str(ROOT / "training" / "checkpoints" / "countdown-policy")


@pytest.fixture(scope="module")
def policy():
    return load_model(POLICY)


@pytest.fixture(scope="module")
def probes(policy):
    model, tokenizer = policy
    prompts = [build_prompt_ids(problem, tokenizer) for problem in load_puzzles("test", 6)]
    return make_probes(model, HFGenerator(model, tokenizer), prompts, 96, (5, 40))


def test_the_warm_start_reads_what_it_read(policy, probes):
    found = probe_statistics(policy[0], probes)
    for name in CONVENTIONS:
        assert found[f"{name}_waad_rank"] == pytest.approx(1)
        assert found[f"{name}_fai_rank"] == pytest.approx(1)
        assert found[f"{name}_credit_stays"] == pytest.approx(1)
    assert {key.partition("_")[2] for key in found if key.endswith("_lift")} == {
        "waad_peak_entropy_lift",
        "receiver_global_fai_cooccurrence_lift",
        "fai_follows_or_coincides_waad_lift",
    }


def test_other_weights_read_something_else(policy, probes):
    model, _ = load_model(POLICY)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    found = probe_statistics(model, probes)
    assert found["analysis_waad_rank"] < 0.95
    assert 0 < found["training_credit_stays"] < 1


def test_ranks_by_hand():
    assert _rank(np.array([1.0, 2, 3, np.nan]), np.array([10.0, 20, 30, 0])) == 1
    assert _rank(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == -1
    assert np.isnan(_rank(np.array([1.0, 1, 1]), np.array([3.0, 2, 1])))
