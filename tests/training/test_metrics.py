"""What a step logs, worked out by hand on two responses."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from training.actors.attn import Reading
from training.actors.infer import Rollout
from training.metrics import batch_statistics, mean_of_updates, rhythm_statistics, sampler_gap

NAN = float("nan")
RESPONSE = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1]]).bool()  # one prompt token each; the first response is shorter
ROLLOUT = Rollout(
    input_ids=torch.zeros(2, 4, dtype=torch.long),
    attention=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool(),
    response=RESPONSE,
    sampled_logp=torch.tensor([[NAN, -1.0, -2.0, NAN], [NAN, -1.0, -1.0, -1.0]]),
    texts=("a", "b"),
    finished=torch.tensor([True, False]),
)
READING = Reading(
    old_logp=torch.tensor([[NAN, -1.5, -2.0, NAN], [NAN, -1.0, -1.0, -2.0]]),
    entropy=torch.tensor([[NAN, 1.0, 2.0, NAN], [NAN, 3.0, 4.0, 5.0]]),
    signals=None,
)


def test_means_are_over_responses_or_over_response_tokens():
    raw = torch.tensor([1.0, -2.0])
    gamma = torch.tensor([[1.0, 1.5, 1.0, 1.0], [1.0, 1.0, 1.5, 1.0]])
    values = batch_statistics(ROLLOUT, READING, torch.tensor([1.0, 0.0]), raw, gamma, raw[:, None] * gamma)
    expected = {
        "reward_mean": 0.5,
        "response_length": 2.5,
        "finished": 0.5,
        "useful_groups": 1.0,
        "advantage_mean": (2 * 1 + 3 * -2) / 5,  # by token: the longer response counts more
        "advantage_size": (2 * 1 + 3 * 2) / 5,
        "shaped_mean": (1.5 + 1 - 2 - 3 - 2) / 5,
        "shaped_size": (1.5 + 1 + 2 + 3 + 2) / 5,
        "gamma_coverage": 2 / 5,
        "gamma_mean": (3 + 2 * 1.5) / 5,
        "entropy": 3.0,
        "sampler_gap": (0.5 + 1.0) / 5,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values["reward_std"] == pytest.approx(math.sqrt(0.5))  # over n - 1


def test_sampler_gap_counts_no_padding():
    assert sampler_gap(ROLLOUT, READING) == pytest.approx(0.3)


def test_gaps_of_both_signs_do_not_cancel():
    old_logp = torch.tensor([[NAN, -0.5, -2.5, NAN], [NAN, -1.0, -1.0, -1.0]])
    assert sampler_gap(ROLLOUT, replace(READING, old_logp=old_logp)) == pytest.approx((0.5 + 0.5) / 5)


def test_rhythm_is_observed_over_chance():
    """One WAAD peak, at the third of five tokens; of the two FAI peaks one is right after it, one before it."""
    waad = torch.tensor([[NAN, 1.0, 1.0, 9.0, 1.0, 1.0]])
    fai = torch.tensor([[NAN, 0.0, 8.0, 0.0, 9.0, 0.0]])
    entropy = torch.tensor([[NAN, 1.0, 1.0, 6.0, 1.0, 1.0]])
    reading = Reading(entropy, entropy, SimpleNamespace(waad=waad, fai=fai))
    values = rhythm_statistics(reading, torch.tensor([[0, 1, 1, 1, 1, 1]]).bool())
    assert values == pytest.approx(
        {
            "waad_peak_entropy_observed": 6.0,
            "waad_peak_entropy_chance": 2.0,
            "waad_peak_entropy_lift": 2.0,
            "fai_follows_or_coincides_waad_observed": 1 / 2,
            "fai_follows_or_coincides_waad_chance": 2 / 5,  # the peak's token and the next one, of five
            "fai_follows_or_coincides_waad_lift": 0.25,
        }
    )


def test_rhythm_sums_over_the_responses_of_a_batch_before_it_divides():
    """One WAAD peak in each; the first has no FAI peak and is shorter."""
    waad = torch.tensor([[1.0, 9.0, 1.0, NAN, NAN], [1.0, 9.0, 1.0, 1.0, 1.0]])
    fai = torch.tensor([[1.0, 1.0, 1.0, NAN, NAN], [0.0, 9.0, 0.0, 0.0, 0.0]])
    entropy = torch.tensor([[1.0, 4.0, 1.0, NAN, NAN], [1.0, 2.0, 1.0, 1.0, 1.0]])
    values = rhythm_statistics(Reading(entropy, entropy, SimpleNamespace(waad=waad, fai=fai)), ~waad.isnan())
    assert values["waad_peak_entropy_observed"] == pytest.approx((4 + 2) / 2)
    assert values["waad_peak_entropy_chance"] == pytest.approx((6 + 6) / 8)
    assert values["fai_follows_or_coincides_waad_chance"] == pytest.approx((2 + 2) / 8)


def test_without_a_peak_the_rhythm_is_undefined():
    flat = torch.ones(1, 5)
    values = rhythm_statistics(Reading(flat, flat, SimpleNamespace(waad=flat, fai=flat)), torch.ones(1, 5).bool())
    assert math.isnan(values["waad_peak_entropy_lift"]) and math.isnan(values["fai_follows_or_coincides_waad_lift"])


def test_gradient_steps_are_averaged_and_their_extremes_kept():
    """A mini-batch without advantage has no loss and no gradient: NaN, and not in the mean."""
    common = {"clip_share": 0.1, "approx_kl": 0.2, "ratio_mean": 1.0}
    updates = [
        {**common, "loss": 1.0, "grad_norm": 2.0, "ratio_min": 0.9, "ratio_max": 1.1, "lr": 1e-3},
        {**common, "loss": NAN, "grad_norm": NAN, "ratio_min": NAN, "ratio_max": NAN, "lr": 2e-3},
        {**common, "loss": 3.0, "grad_norm": 4.0, "ratio_min": 0.7, "ratio_max": 1.0, "lr": 3e-3},
    ]
    values = mean_of_updates(updates)
    assert (values["loss"], values["grad_norm"], values["grad_norm_max"]) == (2.0, 3.0, 4.0)
    assert (values["ratio_min"], values["ratio_max"], values["lr"]) == (0.7, 1.1, 3e-3)
