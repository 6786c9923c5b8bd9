"""Accuracy, intervals and paired tests: by hand first, properties next."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from attention_rhythm.statistics import (
    TInterval,
    avg_at_k,
    bootstrap_interval,
    bootstrap_ratio,
    bootstrap_statistic,
    compare_paired,
    holm,
    mcnemar_exact,
    pass_at_1,
    pass_at_k,
    pooled_contrasts,
    sign_flip_test,
    t_interval,
    wilson_interval,
)

# --- by hand ----------------------------------------------------------------------------------------------------------


def test_avg_at_k():
    assert avg_at_k([[1, 0], [1, 1], [0, 0]]) == 0.5
    assert pass_at_1([1, 0, 0, 1]) == 0.5


def test_pass_at_k():
    # 2 of 4 correct: one draw 1/2; of the 6 pairs only one misses; three draws cannot miss
    assert [pass_at_k([2], 4, k)[0] for k in (1, 2, 3)] == pytest.approx([1 / 2, 5 / 6, 1])
    assert pass_at_k([0, 1, 4], [4, 4, 4], 2) == pytest.approx([0, 1 / 2, 1])


def test_wilson_of_9_in_10():
    # centre (0.9 + z^2/20) / (1 + z^2/10), z = 1.96: 0.59585 to 0.98212
    interval = wilson_interval(9, 10)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.9, 0.59585, 0.98212), abs=1e-5)


def test_wilson_stays_within_0_and_1():
    assert wilson_interval(0, 30).low == 0 and 0 < wilson_interval(0, 30).high < 0.2
    assert wilson_interval(30, 30).high == 1


def test_bootstrap_of_two_problems():
    # means of (0, 1) resampled: 0, 1/2, 1 with chances 1/4, 1/2, 1/4; the middle half is all 1/2
    assert bootstrap_interval([0, 1], confidence=0.4).low == bootstrap_interval([0, 1], confidence=0.4).high == 0.5
    assert (bootstrap_interval([0, 1]).low, bootstrap_interval([0, 1]).high) == (0, 1)


def test_bootstrap_of_a_constant_has_no_width():
    interval = bootstrap_interval([[1, 0]] * 8)
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_ratio_of_sums_is_not_the_mean_of_ratios():
    assert bootstrap_ratio([1, 0], [1, 9]).estimate == 0.1


def test_a_ratio_that_is_constant_has_no_width():
    interval = bootstrap_ratio([1, 2, 3], [2, 4, 6])
    assert interval.low == interval.high == pytest.approx(0.5)


def test_mcnemar_by_hand():
    assert mcnemar_exact(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar_exact(3, 1) == pytest.approx(2 * (4 + 1) / 2**4)
    assert mcnemar_exact(0, 0) == 1.0


def test_sign_flip_by_hand():
    assert sign_flip_test([1, 1, 1]) == 2 / 8
    assert sign_flip_test([1, 2, 3, 0, 0]) == 2 / 8  # zeros say nothing
    assert sign_flip_test([3, -1]) == 1 / 2 + 1 / 2  # |2|, |4|, |-4|, |-2|: all at least 2
    assert sign_flip_test([0, 0]) == 1.0


def test_sampled_sign_flips_count_what_was_observed_as_one_of_them():
    # the chance that 100 patterns of 20 signs hold one with all signs equal is 2e-4
    assert sign_flip_test([1] * 20, resamples=100) == 1 / 101


def test_sign_flips_are_exact_for_14_differences_whatever_the_number_of_zeros():
    assert sign_flip_test([1] * 14 + [0] * 10) == 2 / 2**14


def test_a_change_of_unit_changes_no_sign_flip():
    # in tenths, sums that are equal differ in the last bits: 0.3 - 0.1 - 0.2 + 0.1 and 0.1
    for whole in product((1, 2, 3), (-1, -2), (1, 2, 6), (3, -5)):
        if sum(whole):
            assert sign_flip_test([value / 10 for value in whole]) == sign_flip_test(whole), whole


def test_paired_comparison_of_single_samples():
    result = compare_paired([0, 0, 0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 0])
    assert (result.wins, result.losses, result.ties) == (5, 0, 3)
    assert result.difference.estimate == 5 / 8 and result.test == "mcnemar_exact" and result.p_value == 2 / 32


def test_paired_comparison_of_several_samples():
    result = compare_paired([[0, 0], [0, 1]], [[1, 0], [1, 1]])
    assert result.test == "sign_flip" and result.difference.estimate == 0.5 and result.p_value == 0.5


@pytest.mark.parametrize(
    ("baseline", "treatment"),
    [
        ([0, 1, 0], [0.5, 1, 0.5]),  # a share in one of the runs
        ([[0, 0], [1, 1]], [[1, 1], [1, 1]]),  # several samples, though all agree
        ([0, 1], [[1, 1], [1, 1]]),
    ],
)
def test_mcnemar_is_for_one_score_of_0_or_1_in_both_runs(baseline, treatment):
    assert compare_paired(baseline, treatment).test == "sign_flip"


def test_a_comparison_passes_its_options_on():
    before, after = [0.1, 0.5, 0.3, 0.9], [0.4, 0.4, 0.8, 0.7]
    options = {"resamples": 60, "confidence": 0.5, "seed": 3}
    result = compare_paired(before, after, **options)
    assert result.difference == bootstrap_interval(np.subtract(after, before), **options)


def test_pairing_makes_the_interval_narrow():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    result = compare_paired(hard, hard + 0.05)
    assert result.difference.low == pytest.approx(0.05) and result.difference.high == pytest.approx(0.05)
    assert result.p_value < 1e-3


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: avg_at_k([]),
        lambda: avg_at_k([[[1]]]),
        lambda: avg_at_k([1, math.nan]),
        lambda: pass_at_k([1], 4, 5),
        lambda: pass_at_k([1], 4, 0),
        lambda: pass_at_k([5], 4, 1),
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: bootstrap_ratio([1], [0]),
        lambda: bootstrap_ratio([1, 2], [1]),
        lambda: bootstrap_statistic(0, lambda chosen: chosen.mean(axis=-1)),
        lambda: bootstrap_interval([1], confidence=95),
        lambda: compare_paired([1, 0], [1]),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match=r"."):
        call()


# --- properties -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_correct_one(case):
    n, c, k = case
    draws = list(combinations(range(n), k))
    assert pass_at_k([c], [n], k)[0] == pytest.approx(sum(min(draw) < c for draw in draws) / len(draws))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_pass_at_1_is_the_mean(samples):
    assert pass_at_k([sum(samples)], len(samples), 1)[0] == pytest.approx(np.mean(samples))


def test_pass_at_k_of_many_samples_does_not_overflow():
    assert 0.99 < pass_at_k([1000], 10_000, 100)[0] < 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_bootstrap_is_seeded_and_brackets_its_estimate(scores, seed):
    interval = bootstrap_interval(scores, resamples=500, seed=seed)
    assert interval == bootstrap_interval(scores, resamples=500, seed=seed)
    assert min(scores) - 1e-9 <= interval.low <= interval.high <= max(scores) + 1e-9


def test_bootstrap_agrees_with_scipy():
    scores = np.random.default_rng(1).random(80)
    ours = bootstrap_interval(scores)
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        interval = bootstrap_interval(rng.random(60) < 0.4, resamples=1000, seed=trial)
        covered += interval.low <= 0.4 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98  # nominal 0.95, standard error 0.013


def test_any_statistic_can_be_resampled():
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    interval = bootstrap_statistic(5, lambda chosen: np.median(values[chosen], axis=-1))
    assert interval.estimate == 3 and interval.low >= 1 and interval.high <= 100


def test_resamples_without_a_value_are_left_out():
    interval = bootstrap_ratio([1, 1], [2, 0])  # half the mass: where problem 2 is drawn twice, 2 / 0
    assert (interval.low, interval.high) == (0.5, 1.0)


def test_sampled_and_exact_sign_flips_agree():
    values = np.random.default_rng(4).normal(0.3, 1, size=14)
    exact = sign_flip_test(values)
    padded = sign_flip_test(np.concatenate([values, [1e-12]]))  # one more than is enumerated
    assert padded == pytest.approx(exact, abs=0.02)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(5)
    p = [sign_flip_test(rng.normal(size=20), resamples=400, seed=i) for i in range(300)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09


# --- t intervals ------------------------------------------------------------------------------------------------------


def test_t_interval_by_hand():
    result = t_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1 / math.sqrt(3)  # t(0.975, 2) x standard deviation / sqrt(n)
    assert result.mean == 2 and (result.low, result.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert result.p_value == pytest.approx(0.07418, abs=1e-4)  # t = 2 sqrt(3), 2 degrees of freedom


def test_one_value_has_no_interval():
    result = t_interval([4.0])
    assert result.mean == 4 and math.isnan(result.low) and math.isnan(result.high) and math.isnan(result.p_value)


def test_values_that_do_not_vary_have_an_interval_of_no_width():
    assert t_interval([2.0, 2.0]) == TInterval(2.0, 2.0, 2.0, 0.0)
    assert t_interval([0.0, 0.0, 0.0]) == TInterval(0.0, 0.0, 0.0, 1.0)


def test_equal_values_have_no_width_whatever_their_rounding():
    # the mean of three times 0.1 is not 0.1: a standard deviation of 1e-17 would give p = 1e-32
    result = t_interval([0.1] * 3)
    assert result.low == result.high == result.mean == pytest.approx(0.1) and result.p_value == 0.0


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="t_interval"):
        t_interval(values)


# --- arms of an experiment --------------------------------------------------------------------------------------------


def test_two_arms_are_students_test():
    one, other = [3.0, 4.0, 6.0, 5.5], [2.0, 2.5, 4.0]
    (found,) = pooled_contrasts([one, other], [(0, 1)])
    test = stats.ttest_ind(one, other)
    interval = test.confidence_interval()
    assert (found.difference, found.p_value) == pytest.approx((np.mean(one) - np.mean(other), test.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_arms_share_one_variance_by_hand():
    # squares about the means: 2, 8, 0 with 1 + 1 + 0 degrees of freedom, so variance 5
    (found,) = pooled_contrasts([[1.0, 3.0], [2.0, 6.0], [5.0]], [(2, 0)])
    error = math.sqrt(5 * (1 + 1 / 2))
    assert found.difference == 3
    assert found.high - found.difference == pytest.approx(stats.t.ppf(0.975, 2) * error)


def test_the_detectable_difference_is_found_in_four_of_five_experiments():
    arms = [np.arange(8.0), np.arange(8.0) + 1, np.arange(8.0) + 2]
    (found,) = pooled_contrasts(arms, [(0, 1)])
    error = (found.high - found.low) / 2 / stats.t.ppf(0.975, 21)
    power = stats.nct.sf(stats.t.ppf(0.975, 21), 21, found.detectable / error)
    assert power == pytest.approx(0.8, abs=0.01)


def test_arms_without_spread_or_values():
    (same,) = pooled_contrasts([[1.0, 1.0], [1.0, 1.0]], [(0, 1)])
    assert (same.difference, same.p_value) == (0, 1)
    (apart,) = pooled_contrasts([[1.0, 1.0], [2.0, 2.0]], [(0, 1)])
    assert (apart.difference, apart.p_value) == (-1, 0)
    with pytest.raises(ValueError, match="variance"):
        pooled_contrasts([[1.0], [2.0]], [(0, 1)])


def test_holm_by_hand():
    # in rising order 0.01 * 3, 0.03 * 2, 0.04 * 1, and none below the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
