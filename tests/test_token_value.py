"""Token values: estimators against exact expectations, choices and scores by hand."""

from dataclasses import replace
from itertools import permutations, product
from math import comb, inf

import numpy as np
import pytest
import torch

from attention_rhythm.credit import CreditConfig, top_q
from attention_rhythm.statistics import Interval, visible_effect
from attention_rhythm.token_value import (
    Tokens,
    best_amplification,
    difference,
    gain,
    lift,
    score,
    score_noise,
    signed_change,
    squared_change,
    stratified_positions,
    top,
    verdict,
)

NAN = float("nan")


def expectation(estimator, before, after, half):
    """Of an estimator of one token, exactly: every pair of counts of both halves with its binomial probability."""

    def chance(value, count):
        return comb(half, count) * value**count * (1 - value) ** (half - count)

    return sum(
        chance(before, a0) * chance(before, b0) * chance(after, a1) * chance(after, b1)
        * estimator(np.array([[a0, b0]]), np.array([[a1, b1]]), half)[0]
        for a0, b0, a1, b1 in product(range(half + 1), repeat=4)
    )  # fmt: skip


# ------------------------------------------------------------------------------------ estimators


@pytest.mark.parametrize("before", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("after", [0.0, 0.4, 1.0])
def test_the_squared_change_is_unbiased_and_the_plain_square_is_not(before, after):
    exact = (after - before) ** 2
    assert expectation(squared_change, before, after, 2) == pytest.approx(exact, abs=1e-12)

    def plain(first, second, half):
        return ((second.sum(-1) - first.sum(-1)) / (2 * half)) ** 2

    noise = (before * (1 - before) + after * (1 - after)) / 4
    assert expectation(plain, before, after, 2) == pytest.approx(exact + noise, abs=1e-12)


def test_the_squared_change_is_the_mean_over_all_ways_to_halve():
    before, after = [1, 0, 0, 0], [1, 1, 0, 1]  # right or wrong, four continuations each
    products = [
        (sum(y[:2]) - sum(x[:2])) / 2 * (sum(y[2:]) - sum(x[2:])) / 2
        for x in permutations(before)
        for y in permutations(after)
    ]
    found = squared_change(np.array([[1, 0]]), np.array([[2, 1]]), 2)
    assert found == pytest.approx(np.mean(products))


def test_a_token_that_decides_everything_changes_one():
    assert squared_change(np.array([[0, 0]]), np.array([[8, 8]]), 8) == 1


@pytest.mark.parametrize(("before", "after"), [(0.3, 0.3), (0.2, 0.7), (0.7, 0.2)])
def test_what_helps_and_what_hurts_add_up_and_a_token_that_changes_nothing_adds_nothing(before, after):
    helps, hurts = (
        expectation(lambda *counts, side=side: signed_change(*counts)[side], before, after, 2) for side in (0, 1)
    )
    assert helps + hurts == pytest.approx((after - before) ** 2)
    if before == after:
        assert helps == pytest.approx(0, abs=1e-12)
    else:
        assert (helps > hurts) == (after > before)


def test_a_clear_change_is_on_its_own_side_whole():
    helps, hurts = signed_change(np.array([[0, 0], [4, 4]]), np.array([[4, 4], [0, 0]]), 4)
    assert helps.tolist() == [1, 0]
    assert hurts.tolist() == [0, 1]


def test_halves_that_disagree_share_what_is_below_zero():
    helps, hurts = signed_change(np.array([[0, 4]]), np.array([[4, 0]]), 4)
    assert (helps[0], hurts[0]) == (-0.5, -0.5)


def test_the_noise_is_the_squared_length_of_the_gradient_by_the_logits():
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(0)
    (gradient,) = torch.autograd.grad(logp[0], logits)
    collision = logp.exp().square().sum().item()
    assert score_noise(np.array([logp[0].item()]), np.array([collision])) == pytest.approx(
        gradient.square().sum().item()
    )


# --------------------------------------------------------------------------------------- choices


def test_the_top_of_each_response_by_hand():
    response = np.array([0, 0, 0, 0, 0, 1, 1])
    signal = np.array([3.0, NAN, 3.0, 1.0, 3.0, 0.1, 0.2])
    # ceil(0.4 * 4) = 2 of four defined ones, ties to the earlier; ceil(0.4 * 2) = 1
    assert top(signal, response, 0.4).tolist() == [1, 0, 1, 0, 0, 0, 1]


def test_the_top_is_that_of_credit():
    rng = np.random.default_rng(0)
    signal = rng.integers(0, 5, 40).astype(np.float32)
    signal[rng.random(40) < 0.2] = NAN
    own = top_q(torch.ones(1, 40, dtype=torch.bool), torch.from_numpy(signal)[None], CreditConfig())[0]
    assert (top(signal, np.zeros(40, int), 0.4) == own.numpy()).all()


def test_few_tokens_are_all_measured():
    positions, weights = stratified_positions(np.array([0, 1, 1]), 5, np.random.default_rng(0))
    assert positions.tolist() == [0, 1, 2]
    assert weights.tolist() == [1, 1, 1]


def test_positions_are_drawn_as_often_as_their_weights_say_and_rare_kinds_more_often():
    strata = np.array([0] * 25 + [1] * 4 + [2])
    drawn, rng = np.zeros(30), np.random.default_rng(1)
    for _ in range(4000):
        positions, weights = stratified_positions(strata, 6, rng)
        assert len(set(positions.tolist())) == 6
        assert (np.diff(positions) > 0).all()
        drawn[positions] += 1
    # root of 25, 4, 1: five, two and one part of eight, so 6 * 5 / 8 of the 25, and so on
    exact = np.array([6 * 5 / 8 / 25] * 25 + [6 * 2 / 8 / 4] * 4 + [6 / 8])
    assert (abs(drawn / 4000 - exact) < 5 * np.sqrt(exact * (1 - exact) / 4000)).all()
    positions, weights = stratified_positions(strata, 6, rng)
    assert weights == pytest.approx(1 / exact[positions])


# ---------------------------------------------------------------------------------------- scores


def some_tokens(squared, response, stratum=None, weight=None):
    squared = np.asarray(squared, float)
    ones = np.ones(len(squared))
    return Tokens(
        response=np.asarray(response),
        stratum=np.zeros(len(squared), int) if stratum is None else np.asarray(stratum),
        weight=ones if weight is None else np.asarray(weight, float),
        squared=squared,
        helps=squared,
        hurts=0 * squared,
        forced=squared,
        gradient=squared,
        noise=ones,
    )


ALL = np.arange(2)[None]  # both responses, once each


def test_lift_by_hand():
    tokens = some_tokens([4, 0, 1, 1, 2, 4], [0, 0, 0, 1, 1, 1])  # mean 2
    chosen = np.array([1.0, 0, 0, 0, 0, 1])
    assert lift(chosen, tokens, "squared")(ALL)[0] == 4 / 2
    half = np.array([1.0, 0.5, 0, 0, 0, 0])  # 4 on one and a half tokens
    assert lift(half, tokens, "squared")(ALL)[0] == pytest.approx(4 / 1.5 / 2)
    twice_the_first = np.array([[0, 0]])  # mean 5 / 3, chosen 4
    assert lift(chosen, tokens, "squared")(twice_the_first)[0] == pytest.approx(4 / (5 / 3))
    one_twice = np.array([[0, 0, 1]])  # mean (5 + 5 + 7) / 9, chosen (4 + 4 + 4) / 3
    assert lift(chosen, tokens, "squared")(one_twice)[0] == pytest.approx(4 / (17 / 9))


def test_weights_stand_for_the_tokens_that_were_not_measured():
    tokens = some_tokens([4, NAN, 1, 1], [0, 0, 0, 0], weight=[1, 0, 1, 2])  # the last stands for two: mean 7 / 4
    assert lift(np.array([1.0, 1, 0, 0]), tokens, "squared")(np.zeros((1, 1), int))[0] == pytest.approx(4 / (7 / 4))


def test_a_signal_that_knows_the_kind_alone_has_no_lift_within_kinds():
    tokens = some_tokens([9, 9, 1, 1, 9, 1], [0, 0, 0, 0, 1, 1], stratum=[1, 1, 0, 0, 1, 0])
    kind = np.array([1.0, 0, 0, 0, 1, 0])
    assert lift(kind, tokens, "squared")(ALL)[0] == pytest.approx(9 / 5)
    assert lift(kind, tokens, "squared", within=True)(ALL)[0] == pytest.approx(1)


def test_within_kinds_a_choice_is_compared_with_its_own_kinds():
    tokens = some_tokens([8, 4, 3, 1], [0, 0, 1, 1], stratum=[1, 1, 0, 0])  # means 6 and 2
    chosen = np.array([1.0, 0, 0, 1])
    assert lift(chosen, tokens, "squared", within=True)(ALL)[0] == pytest.approx((8 + 1) / (6 + 2))


def test_what_chooses_nothing_or_has_nothing_to_find_is_undefined():
    tokens = some_tokens([1, 1, 1, 1], [0, 0, 1, 1])
    assert np.isnan(lift(np.zeros(4), tokens, "squared")(ALL)[0])
    assert np.isnan(lift(np.ones(4), tokens, "hurts")(ALL)[0])
    assert np.isnan(score(np.ones(4), tokens).hurts.estimate)


def test_the_score_of_a_choice():
    rng = np.random.default_rng(0)
    response = np.repeat(np.arange(50), 10)
    squared = rng.random(500) ** 4
    tokens = some_tokens(squared, response)
    best = score(top(squared, response, 0.4), tokens, resamples=200)
    assert best.coverage == pytest.approx(0.4)
    assert best.share.estimate == pytest.approx(0.4 * best.lift.estimate)
    assert best.lift.low > 1.5
    assert best.within.estimate == pytest.approx(best.lift.estimate)  # one kind of tokens
    assert best.noise == pytest.approx(0.4)
    assert verdict(best.lift) == "yes"
    blind = score(top(rng.random(500), response, 0.4), tokens, resamples=200)
    assert blind.lift.low < 1 < blind.lift.high
    apart = difference(top(squared, response, 0.4), top(rng.random(500), response, 0.4), tokens, resamples=200)
    assert apart.low > 0.5


def test_a_difference_is_paired():
    rng = np.random.default_rng(0)
    response = np.repeat(np.arange(30), 10)
    tokens = some_tokens(rng.random(300) * np.repeat(rng.random(30), 10), response)
    chosen = top(rng.random(300), response, 0.4)
    same = difference(chosen, chosen, tokens, resamples=100)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)


# --------------------------------------------------------------------------- sample efficiency


@pytest.mark.parametrize(("held", "noise"), [(0.6, 0.4), (0.3, 0.4), (0.4, 0.4)])
def test_the_gain_by_its_closed_form(held, noise):
    strength, second = np.array([1.0, held]), np.array([1.0, noise, noise])
    assert gain(strength[:, None], second[:, None], 1.5)[0] == pytest.approx(
        (1 + 0.5 * held) ** 2 / (1 + (1.5**2 - 1) * noise)
    )
    best = best_amplification(strength, second)
    assert best == pytest.approx(held * (1 - noise) / (noise * (1 - held)))
    most = gain(strength[:, None], second[:, None], best)[0]
    assert most == pytest.approx(held**2 / noise + (1 - held) ** 2 / (1 - noise))
    assert most >= max(gain(strength[:, None], second[:, None], best + step)[0] for step in (-0.1, 0.1))


def test_tokens_that_hold_everything_should_count_without_bound():
    assert best_amplification(np.array([1.0, 1.0]), np.array([1.0, 0.4, 0.4])) == inf


def test_the_gain_is_that_of_a_gradient_with_independent_noise():
    """Two tokens with expected gradients 1 and 2 and noise of variance 3 and 1: the improvement by equal noise."""
    means, variances = np.array([1.0, 2.0]), np.array([3.0, 1.0])

    def efficiency(gamma):
        return (gamma * means**2).sum() ** 2 / (gamma**2 * variances).sum()

    found = gain(np.array([[5.0], [4.0]]), np.array([[4.0], [1.0], [1.0]]), 1.5)[0]
    assert found == pytest.approx(efficiency(np.array([1, 1.5])) / efficiency(np.array([1, 1])))


# --------------------------------------------------------------------------------------- verdicts


def test_verdicts_and_what_they_could_have_seen():
    interval = Interval(1.2, 1.1, 1.3, 0.95)
    assert verdict(interval) == "yes"
    assert verdict(replace(interval, estimate=0.8, low=0.7, high=0.9)) == "no, less"
    assert verdict(replace(interval, low=0.9)) == "not shown"
    assert visible_effect(interval) == pytest.approx(2.8 * 0.1 / 1.96)
