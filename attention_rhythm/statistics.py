"""Accuracy over problems, with intervals and paired tests, which the paper lacks. Pure functions on numpy arrays.

Shapes: P problems, S samples a problem, R resamples. The unit of resampling is always the problem: the samples of one
problem share its difficulty, so they are averaged first and never count as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 2.8  # standard errors between no effect and one that is seen in four of five studies, at two-sided 5%
CHUNK = 4_000_000  # indices drawn at a time: 32 MB
EXACT_SIGN_FLIPS = 14  # up to so many non-zero differences, all 2^n sign patterns are enumerated


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, at `confidence`."""

    estimate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class PairedComparison:
    """Two runs on the same problems. difference: treatment - baseline, mean over problems, with its bootstrap interval.

    p_value: two-sided; test: which one gave it. wins, losses, ties: problems where the treatment is better, worse, as
    good.
    """

    difference: Interval
    p_value: float
    test: str
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class TInterval:
    """The mean of a few runs, its t interval, and the two-sided p-value of a mean of 0."""

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Contrast:
    """Difference of the means of two arms of an experiment, with what the experiment could have seen.

    low, high: t interval with the variance of all arms pooled; p_value: two-sided; detectable: the difference that four
    of five such experiments find at two-sided 5%.
    """

    difference: float
    low: float
    high: float
    p_value: float
    detectable: float


# --- accuracies -------------------------------------------------------------------------------------------------------


def avg_at_k(correct: ArrayLike) -> float:
    """avg@k of `correct` (P, k): the mean over problems of the share of samples that are correct."""
    return float(problem_means(correct).mean())


def pass_at_1(correct: ArrayLike) -> float:
    """pass@1 of `correct` (P,) or (P, S): the unbiased estimate from S samples is their mean."""
    return avg_at_k(correct)


def pass_at_k(successes: ArrayLike, samples: ArrayLike, k: int) -> Array:
    """pass@k of each problem (P,): the chance that k of its n samples, drawn without return, hold one of its c correct.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, Eq. 1), as a product of k
    factors, so that nothing overflows. successes c and samples n: (P,) or scalar, whole numbers. Its mean over problems
    is pass@k of the benchmark. ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    c, n = np.broadcast_arrays(np.atleast_1d(successes), np.atleast_1d(samples))
    if np.any(c < 0) or np.any(c > n):
        raise ValueError("successes must lie between 0 and samples")
    if k < 1 or np.any(n < k):
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples of every problem")
    steps = np.arange(k)
    missed = np.clip(n[:, None] - c[:, None] - steps, 0, None) / (n[:, None] - steps)  # (P, k)
    return 1.0 - missed.prod(axis=1)


def problem_means(scores: ArrayLike) -> Array:
    """(P,) or (P, S) scores -> (P,) means over the samples. ValueError: no problems, no samples, or NaN."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"scores must be (problems,) or (problems, samples) and not empty, not {array.shape}")
    if np.isnan(array).any():
        raise ValueError("scores hold NaN")
    return array if array.ndim == 1 else array.mean(axis=1)


# --- intervals --------------------------------------------------------------------------------------------------------


def bootstrap_interval(
    scores: ArrayLike, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Percentile bootstrap, over problems, of the mean of `scores` (P,) or (P, S)."""
    values = problem_means(scores)
    return bootstrap_statistic(
        len(values),
        lambda chosen: values[chosen].mean(axis=-1),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap, over problems, of sum(numerators) / sum(denominators), both (P,).

    For shares of tokens: the longer response weighs more, in the estimate and in every resample. ValueError if the two
    differ in length.
    """
    top, bottom = problem_means(numerators), problem_means(denominators)
    if top.shape != bottom.shape:
        raise ValueError(f"{len(top)} numerators and {len(bottom)} denominators")

    def ratio(chosen: NDArray[np.int64]) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where((total := bottom[chosen].sum(axis=-1)) == 0, np.nan, top[chosen].sum(axis=-1) / total)

    return bootstrap_statistic(len(top), ratio, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_statistic(
    problems: int,
    statistic: Callable[[NDArray[np.int64]], Array],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of any statistic of a set of problems: a lift, a difference of ratios, a median.

    statistic: (r, problems) indices of the chosen problems -> (r,) values, for any r; its value on all problems, once
    each, is the estimate. Resamples in which it is undefined (NaN) are left out. ValueError: no problems, an undefined
    estimate, a confidence outside (0, 1).
    """
    if problems < 1:
        raise ValueError("no problems to resample")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    estimate = float(statistic(np.arange(problems)[None, :])[0])
    if np.isnan(estimate):
        raise ValueError("the statistic is undefined on these problems")
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // problems)
    values = np.concatenate(
        [
            statistic(rng.integers(problems, size=(min(rows, resamples - start), problems)))
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), confidence)


def wilson_interval(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a share of independent trials: pass@1 with one sample a problem.

    ValueError for no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials")
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high), confidence)


def visible_effect(interval: Interval) -> float:
    """The distance from no effect that a study with this 95% interval sees in four of five cases, in its own units."""
    return POWER * (interval.high - interval.low) / (2 * 1.96)


def t_interval(values: ArrayLike, *, confidence: float = CONFIDENCE) -> TInterval:
    """Mean and t interval of (n,) independent values: runs with different seeds, their accuracies or differences.

    One value has no interval (NaN); n equal values have one of no width, and p is 0 unless they are 0, then 1.
    ValueError: no values, or NaN among them.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or np.isnan(array).any():
        raise ValueError(f"t_interval takes (n,) values without NaN, n at least 1, not {array.shape}")
    mean = float(array.mean())
    if len(array) < 2:
        return TInterval(mean, *[float("nan")] * 3)
    if np.ptp(array) == 0:
        return TInterval(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    test = stats.ttest_1samp(array, 0.0)
    interval = test.confidence_interval(confidence)
    return TInterval(mean, float(interval.low), float(interval.high), float(test.pvalue))


# --- arms of an experiment --------------------------------------------------------------------------------------------


def pooled_contrasts(
    arms: Sequence[ArrayLike], pairs: Sequence[tuple[int, int]], *, confidence: float = CONFIDENCE
) -> list[Contrast]:
    """Differences of means between arms (first minus second of each pair), with one variance for all arms.

    arms: (n_i,) independent values each, any n_i. All arms say how much a value varies, so that a few seeds an arm are
    enough for its degrees of freedom, sum n_i - 1. ValueError: no arm has two values, or one has none.
    """
    values = [np.asarray(arm, dtype=np.float64) for arm in arms]
    freedom = sum(len(arm) - 1 for arm in values)
    if freedom < 1 or not all(len(arm) for arm in values):
        raise ValueError("the variance of arms needs a value in each, and two in one")
    variance = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in values) / freedom
    critical = float(stats.t.ppf((1 + confidence) / 2, freedom))
    found = []
    for first, second in pairs:
        difference = float(values[first].mean() - values[second].mean())
        error = float(np.sqrt(variance * (1 / len(values[first]) + 1 / len(values[second]))))
        p_value = 2 * float(stats.t.sf(abs(difference) / error, freedom)) if error else float(difference == 0)
        seen = error * float(stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom))
        found.append(Contrast(difference, difference - critical * error, difference + critical * error, p_value, seen))
    return found


def holm(p_values: ArrayLike) -> Array:
    """p-values of several tests, (n,), adjusted by Holm: the chance of any false finding among them is below each."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    found = np.empty_like(values)
    found[order] = np.minimum(adjusted, 1.0)
    return found


# --- paired comparison ------------------------------------------------------------------------------------------------


def compare_paired(
    baseline: ArrayLike,
    treatment: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedComparison:
    """Compare two runs on the same problems in the same order; (P,) or (P, S) scores each, S may differ.

    The p-value is McNemar's exact one where every problem has one score that is 0 or 1 in both runs, else that of a
    sign-flip permutation test on the differences of the problems' means. ValueError: different numbers of problems.
    """
    before, after = problem_means(baseline), problem_means(treatment)
    if before.shape != after.shape:
        raise ValueError(f"{len(before)} and {len(after)} problems: not the same ones")
    differences = after - before
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    if np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all() and np.ndim(baseline) == np.ndim(treatment) == 1:
        test, p_value = "mcnemar_exact", mcnemar_exact(wins, losses)
    else:
        test, p_value = "sign_flip", sign_flip_test(differences, resamples=resamples, seed=seed)
    interval = bootstrap_interval(differences, resamples=resamples, confidence=confidence, seed=seed)
    return PairedComparison(interval, p_value, test, wins, losses, len(differences) - wins - losses)


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact McNemar p-value: under no difference each discordant problem is a fair coin. 1.0 with none."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def sign_flip_test(differences: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference (P,) under random signs: exact for up to 14 that are not 0.

    Beyond that signs are sampled and it is (1 + resamples at least as extreme) / (1 + resamples), which is never 0.
    """
    values = problem_means(differences)
    values = values[values != 0]
    if not len(values):
        return 1.0
    bound = abs(values.sum()) * (1 - 1e-12)  # sums of the same numbers in another order differ in the last bits
    if len(values) <= EXACT_SIGN_FLIPS:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float((np.abs((1 - 2 * patterns) @ values) >= bound).mean())
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(values))
    extreme = 0
    for start in range(0, resamples, rows):
        signs = 1 - 2 * rng.integers(2, size=(min(rows, resamples - start), len(values)))
        extreme += int((np.abs(signs @ values) >= bound).sum())
    return (1 + extreme) / (1 + resamples)
