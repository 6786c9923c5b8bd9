"""Group advantages and the clipped loss: by hand, in parts, and against verl's functions where verl is installed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_rhythm.grpo import group_advantages, policy_loss

NAN = float("nan")


def loss_of(ratios, advantages, **options):
    """Loss and metrics of one sequence of tokens with these ratios."""
    logp = torch.tensor([ratios]).log()
    return policy_loss(
        logp, torch.zeros_like(logp), torch.tensor(advantages), torch.ones(1, len(ratios)).bool(), **options
    )


# --- advantages -------------------------------------------------------------------------------------------------------


def test_eq_6_by_hand():
    # mean 1/4, standard deviation over G - 1 = 1/2; the second group is interleaved
    rewards, groups = torch.tensor([1.0, 5.0, 0.0, 7.0, 0.0, 0.0]), torch.tensor([3, 1, 3, 1, 3, 3])
    low, high = -0.25 / 0.500001, 0.75 / 0.500001
    pair = 1 / (math.sqrt(2) + 1e-6)
    expected = torch.tensor([high, -pair, low, pair, low, low])
    torch.testing.assert_close(group_advantages(rewards, groups), expected)


def test_a_group_without_spread_gives_exactly_zero():
    rewards = torch.tensor([0.1] * 7 + [0.3], dtype=torch.float64)  # seven times 0.1 do not add up to 0.7
    assert group_advantages(rewards, torch.tensor([0] * 7 + [1])).tolist() == [0.0] * 8


def test_broken_rewards_are_refused(unchecked):
    with pytest.raises(ValueError, match="NaN"):
        group_advantages(torch.tensor([0.0, NAN]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="infinite"):
        group_advantages(torch.tensor([0.0, math.inf]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="group_ids"):
        group_advantages(torch.zeros(3), torch.zeros(2))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10)), min_size=1, max_size=30))
def test_any_groups_against_plain_python(pairs):
    groups, rewards = torch.tensor(pairs).T
    result = group_advantages(rewards / 10, groups)
    for group in groups.unique():
        own = (rewards[groups == group] / 10).double()
        if own.unique().numel() == 1:
            assert result[groups == group].eq(0).all()
        else:
            expected = (own - own.mean()) / (own.std() + 1e-6)
            torch.testing.assert_close(result[groups == group].double(), expected, atol=1e-6, rtol=1e-6)


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0.0),
        (1.5, 2.0, -2.4, 1.0),  # no gain beyond 1.2
        (0.5, 2.0, -1.0, 0.0),  # a loss is never clipped away
        (0.5, -2.0, 1.6, 1.0),
        (1.5, -2.0, 3.0, 0.0),
    ],
)
def test_eq_12_is_the_pessimistic_side_of_the_clip(ratio, advantage, loss, clipped):
    result, metrics = loss_of([ratio], [advantage])
    assert result.item() == pytest.approx(loss)
    assert metrics["clip_share"].item() == clipped


def test_the_two_ends_of_the_clip_are_set_apart():
    assert loss_of([2.0], [1.0], clip_high=0.5)[0].item() == pytest.approx(-1.5)
    assert loss_of([0.1], [-1.0], clip_low=0.3)[0].item() == pytest.approx(0.7)


def test_aggregation_over_tokens_or_over_sequences():
    mask = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])
    advantages = torch.tensor([3.0, 1.0, 100.0])
    zeros = torch.zeros(3, 3)
    assert policy_loss(zeros, zeros, advantages, mask)[0].item() == pytest.approx(-(3 + 1 + 1 + 1) / 4)
    by_sequence = policy_loss(zeros, zeros, advantages, mask, aggregation="sequence_mean")[0]
    assert by_sequence.item() == pytest.approx(-(3 + 1) / 2)
    with pytest.raises(ValueError, match="aggregation"):
        policy_loss(zeros, zeros, advantages, mask, aggregation="sum")


def test_metrics_by_hand():
    metrics = {k: v.item() for k, v in loss_of([1.0, 2.0, 0.5, 1.0], [1.0])[1].items()}
    kl = (0 + (2 - 1 - math.log(2)) + (0.5 - 1 + math.log(2)) + 0) / 4
    expected = {
        "tokens": 4,
        "clip_share": 0.25,
        "approx_kl": kl,
        "ratio_mean": 4.5 / 4,
        "ratio_min": 0.5,
        "ratio_max": 2,
    }
    assert metrics == pytest.approx(expected)


def test_padding_may_hold_anything_and_has_no_gradient():
    logp = torch.tensor([[0.0, NAN], [0.5, float("-inf")]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    old, advantages = torch.tensor([[0.0, NAN]] * 2), torch.tensor([[1.0, NAN]] * 2)
    loss, metrics = policy_loss(logp, old, advantages, mask)
    loss.backward()
    assert loss.item() == pytest.approx(-1.1) and metrics["ratio_max"].item() == pytest.approx(math.exp(0.5))
    assert logp.grad.tolist() == [[-0.5, 0], [0, 0]]  # the second ratio is clipped


def test_without_tokens_the_metrics_are_undefined():
    zeros = torch.zeros(1, 2)
    metrics = policy_loss(zeros, zeros, torch.ones(1), zeros.bool(), denominator=4)[1]
    assert metrics.pop("tokens") == 0 and all(value.isnan() for value in metrics.values())


def test_no_gradient_flows_through_advantages_or_old_log_probabilities():
    logp, old, advantages = (torch.zeros(1, 2, requires_grad=True) for _ in range(3))
    policy_loss(logp, old, advantages + 1, torch.ones(1, 2, dtype=torch.bool))[0].backward()
    assert logp.grad is not None and old.grad is None and advantages.grad is None


def random_batch(seed, rows=6, width=9):
    generator = torch.Generator().manual_seed(seed)
    logp = torch.randn(rows, width, generator=generator).mul(0.4).sub(2)
    old = logp + torch.randn(rows, width, generator=generator) * 0.3
    advantages = torch.randn(rows, width, generator=generator)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
    return logp, old, advantages, torch.arange(width) < lengths


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_parts_with_the_denominator_of_the_whole_add_up_to_the_whole(aggregation):
    logp, old, advantages, mask = random_batch(0)
    logp.requires_grad_()
    whole = policy_loss(logp, old, advantages, mask, aggregation=aggregation)[0]
    (expected,) = torch.autograd.grad(whole, logp)
    denominator = mask.sum() if aggregation == "token_mean" else len(mask)
    total = 0.0
    for rows in (slice(0, 1), slice(1, 5), slice(5, 6)):
        part, _ = policy_loss(
            logp[rows], old[rows], advantages[rows], mask[rows], aggregation=aggregation, denominator=denominator
        )
        part.backward()
        total += part.item()
    assert total == pytest.approx(whole.item(), abs=1e-6)
    torch.testing.assert_close(logp.grad, expected, atol=1e-8, rtol=1e-6)


# --- verl -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_advantages_equal_those_of_verl(seed):
    core = pytest.importorskip("verl.trainer.ppo.core_algos")
    generator = torch.Generator().manual_seed(seed)
    rewards, groups = torch.rand(32, generator=generator), torch.arange(32) % 4
    token_rewards, mask = torch.zeros(32, 5), torch.ones(32, 5)
    token_rewards[:, -1] = rewards
    theirs, _ = core.compute_grpo_outcome_advantage(token_rewards, mask, np.array([str(g) for g in groups.tolist()]))
    torch.testing.assert_close(group_advantages(rewards, groups), theirs[:, 0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("aggregation", "theirs"), [("token_mean", "token-mean"), ("sequence_mean", "seq-mean-token-mean")]
)
def test_losses_equal_those_of_verl(seed, aggregation, theirs):
    core = pytest.importorskip("verl.trainer.ppo.core_algos")
    logp, old, advantages, mask = random_batch(seed)
    expected, clip_share, *_ = core.compute_policy_loss(
        old, logp, advantages, mask.float(), cliprange=0.2, cliprange_low=0.2, cliprange_high=0.28,
        clip_ratio_c=1e9, loss_agg_mode=theirs,
    )  # fmt: skip
    loss, metrics = policy_loss(logp, old, advantages, mask, clip_high=0.28, aggregation=aggregation)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert metrics["clip_share"].item() == pytest.approx(clip_share.item(), abs=1e-6)
