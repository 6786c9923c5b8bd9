"""Does a signal find the tokens that change the outcome? Values of tokens, and the score of a signal against them.

The value V of a prefix is the chance that the policy's continuation of it is graded right. A token changes it by
dV = V after the token - V before it. V is estimated from K continuations of a prefix, in two halves of K/2 that know
nothing of each other. A plain |dV| is mostly the noise of these estimates, and that noise falls towards the end of a
response; so all here is built on dV^2 without it (`squared_change`).

    chosen = top(signal, tokens.response, 0.4)      # or gamma - 1 of a credit strategy, in units of its largest
    score(chosen, tokens)                           # lift over chance, all over and among tokens alike

Pure functions on numpy arrays. Shapes: T tokens of R responses, S strata, r resamples. The derivations are in
docs/token-values.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_rhythm.statistics import CONFIDENCE, Interval, bootstrap_statistic

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

AMPLIFICATION = 1.5  # gamma_amp of the paper
RESAMPLES = 2_000


@dataclass(frozen=True)
class Tokens:
    """T tokens: all those of R responses, measured or not. What was not measured has weight 0, and any value."""

    response: Whole  # (T,) number of its response, from 0
    stratum: Whole  # (T,) number of its kind (place and class), from 0
    weight: Array  # (T,) 1 / the chance with which this position was measured
    squared: Array  # (T,) dV^2
    helps: Array  # (T,) the part of it of tokens that raise the value
    hurts: Array  # (T,) and of those that lower it
    forced: Array  # (T,) squared difference to the value after the most likely other token
    gradient: Array  # (T,) p dV^2: squared length of the expected gradient (see `gain`)
    noise: Array  # (T,) second moment of the score function, known of every token


@dataclass(frozen=True)
class Score:
    """What a choice of tokens holds. Lifts are ratios to what as many tokens drawn at random hold: 1 is chance."""

    coverage: float  # share of the tokens, an amplified half counting half
    share: Interval  # of the squared value change
    lift: Interval
    within: Interval  # lift over tokens of the same strata
    helps: Interval  # lift, of the change by tokens that help
    hurts: Interval
    forced: Interval  # lift, of what the most likely other token would have changed
    noise: float  # share of the score function's second moment
    gain: Interval  # in sample efficiency, from amplification 1.5
    best_amplification: float  # below 1: these tokens should count less
    best_gain: float


# -------------------------------------------------------------------------------------------- estimators


def squared_change(before: NDArray, after: NDArray, half: int) -> Array:
    """dV^2 of tokens, (T,), without the noise of its sampling: below zero for some that change little.

    The product (a1 - a0) (b1 - b0) of the differences that two halves a, b see, in the mean over all ways to cut the
    continuations of each prefix into halves: V1^2 + V0^2 - 2 V1 V0, where s right ones of K give V^2 = s (s - 1) / (K
    (K - 1)). Unbiased. A prefix whose outcome is certain counts as K continuations that agree.

    Args:
        before, after: (T, 2) right continuations in each half, of the prefix without and with the token.
        half: K / 2, the continuations in each.
    """
    count = 2 * half
    first, second = before.sum(-1, dtype=np.float64), after.sum(-1, dtype=np.float64)
    squares = (second * (second - 1) + first * (first - 1)) / (count * (count - 1))
    return squares - 2 * first * second / count**2


def signed_change(before: NDArray, after: NDArray, half: int) -> tuple[Array, Array]:
    """dV^2 of tokens that help, and of those that hurt, (T,) each: the product of the halves' differences goes to the
    side that either half's sign says, half to each if they disagree.

    A token that changes nothing adds nothing to either, in the mean. One that changes less than the noise adds too much
    to its own side, and as much below zero to the other.
    """
    change = (after.astype(np.float64) - before) / half  # (T, 2)
    product = change.prod(-1)
    return product * (change > 0).mean(-1), product * (change < 0).mean(-1)


def score_noise(logprob: NDArray, collision: NDArray) -> Array:
    """Squared length of d log p(token) / d logits, (T,): 1 - 2 p + sum p^2, without unit.

    logprob: (T,) nats, of the token. collision: (T,) sum of the squared probabilities there.
    """
    return 1 - 2 * np.exp(logprob.astype(np.float64)) + collision


# -------------------------------------------------------------------------------------------- choices


def top(signal: NDArray, response: Whole, quantile: float) -> Array:
    """1 on the tokens that a signal (T,) is highest at, else 0: ceil(q n) of the n of each response where it is
    defined, ties to the earlier, as TopQ in Eqs. 14 and 16."""
    chosen = np.zeros(len(signal))
    for rows in _rows(response):
        known = rows[~np.isnan(signal[rows])]
        count = math.ceil(quantile * len(known) - 1e-9)
        chosen[known[np.argsort(-signal[known], kind="stable")[:count]]] = 1.0
    return chosen


def stratified_positions(strata: Whole, count: int, rng: np.random.Generator) -> tuple[Whole, Array]:
    """At most `count` positions of a response with strata (n,), in order, and 1 / the chance of each to be drawn.

    A stratum of m tokens gets a part of the count in proportion to the root of m, so that rare kinds are seen too; a
    systematic sample through all strata in turn gives each its part. All positions, if there are no more.
    """
    length = len(strata)
    if count >= length:
        return np.arange(length), np.ones(length)
    _, kind, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    chance = np.minimum(_shares(1 / np.sqrt(sizes[kind]), count), 1.0)
    order = rng.permutation(length)
    order = order[np.argsort(kind[order], kind="stable")]  # stratum by stratum, by chance within each
    ends = np.cumsum(chance[order])
    drawn = order[np.searchsorted(ends, rng.random() + np.arange(count), side="right").clip(max=length - 1)]
    drawn = np.sort(drawn)
    return drawn, 1 / chance[drawn]


def _shares(sizes: Array, count: int) -> Array:
    """Chances in proportion to `sizes` that sum to `count`, none above 1."""
    sure = np.zeros(len(sizes), dtype=bool)
    while True:
        chance = np.where(sure, 1.0, sizes * (count - sure.sum()) / sizes[~sure].sum())
        if not (more := ~sure & (chance > 1)).any():
            return chance
        sure |= more


# -------------------------------------------------------------------------------------------- scores


def score(chosen: Array, tokens: Tokens, *, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """The score of a choice (T,): 0 for a token that is not chosen, 1 for one that is, between for one that is in part.

    Intervals: percentile bootstrap over responses, 95%; NaN where nothing is chosen or no value changes.
    """

    def interval(statistic: Callable[[Whole], Array]) -> Interval:
        return _interval(statistic, tokens, resamples, seed)

    coverage = _ratio(tokens.weight * chosen, tokens.weight)
    strength, noise = _strength(chosen, tokens)
    best = best_amplification(strength, noise)
    limit = np.divide(strength[1] ** 2 * noise[0], strength[0] ** 2 * noise[2])  # nothing but the chosen tokens counts
    most = limit if math.isinf(best) else gain(strength[:, None], noise[:, None], best)[0]
    return Score(
        coverage=coverage,
        share=interval(_share(chosen, tokens)),
        lift=interval(lift(chosen, tokens, "squared")),
        within=interval(lift(chosen, tokens, "squared", within=True)),
        helps=interval(lift(chosen, tokens, "helps")),
        hurts=interval(lift(chosen, tokens, "hurts")),
        forced=interval(lift(chosen, tokens, "forced")),
        noise=_ratio(chosen * tokens.noise, tokens.noise),
        gain=interval(_gain(chosen, tokens)),
        best_amplification=best,
        best_gain=float(most),
    )


def difference(
    chosen: Array, other: Array, tokens: Tokens, *, within: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Lift of one choice (T,) minus that of another (T,), on the same resamples of responses; NaN as in `score`."""
    first, second = (lift(choice, tokens, "squared", within=within) for choice in (chosen, other))
    return _interval(lambda drawn: first(drawn) - second(drawn), tokens, resamples, seed)


def lift(chosen: Array, tokens: Tokens, value: str, *, within: bool = False) -> Callable[[Whole], Array]:
    """The lift of a choice as a function of the responses drawn, (r, R) -> (r,).

    Mean of a value over the chosen tokens, over its mean over all; `within`: over what its mean in each stratum makes
    of the chosen tokens' strata. NaN where nothing is chosen or nothing is to be had.
    """
    values = np.where(tokens.weight > 0, getattr(tokens, value), 0.0)
    weights = tokens.weight
    sums = np.stack(
        [_sums(x, tokens, within) for x in (weights * chosen * values, weights * chosen, weights * values, weights)]
    )

    def statistic(drawn: Whole) -> Array:
        held, picked, there, tokens_there = _times_drawn(drawn, sums)  # (r, S) each
        mean = np.divide(there, tokens_there, out=np.zeros_like(there), where=tokens_there > 0)
        expected = (picked * mean).sum(-1)
        return np.where(expected > 0, held.sum(-1), np.nan) / np.where(expected > 0, expected, 1.0)

    return statistic


def gain(strength: Array, noise: Array, amplification: float) -> Array:
    """Sample efficiency with the chosen tokens' advantages times `amplification`, over that without, (r,).

    (sum gamma S)^2 / (sum S)^2 x sum N / sum gamma^2 N with gamma = 1 + (amplification - 1) e: first-order improvement
    by a step of fixed noise. S is the squared length of a token's expected gradient, N its second moment; the score
    functions of different tokens are taken to be orthogonal, and the noise of the return to be the same for all.

    Args:
        strength: (2, r) sums of S and of e S. noise: (3, r) sums of N, e N and e^2 N.
    """
    extra = amplification - 1
    signal = 1 + extra * strength[1] / strength[0]
    return signal**2 * noise[0] / (noise[0] + 2 * extra * noise[1] + extra**2 * noise[2])


def best_amplification(strength: Array, noise: Array) -> float:
    """The amplification at which `gain` is largest, from sums (2,) and (3,); infinity where none is too large."""
    (whole, held), (all_noise, own, squared) = strength, noise
    below = whole * squared - held * own
    return 1 + (held * all_noise - whole * own) / below if below > 0 else math.inf


def verdict(interval: Interval) -> str:
    """Do the chosen tokens hold more than chance: yes | no, less | not shown."""
    return "yes" if interval.low > 1 else "no, less" if interval.high < 1 else "not shown"


# --------------------------------------------------------------------------------------------- private


def _interval(statistic: Callable[[Whole], Array], tokens: Tokens, resamples: int, seed: int) -> Interval:
    """Bootstrap over responses; NaN where the statistic of all of them is undefined."""
    responses = int(tokens.response.max()) + 1
    if np.isnan(statistic(np.arange(responses)[None])[0]):
        return Interval(math.nan, math.nan, math.nan, CONFIDENCE)
    return bootstrap_statistic(responses, statistic, resamples=resamples, seed=seed)


def _rows(response: Whole) -> Iterator[Whole]:
    """The rows of each response, in order."""
    order = np.argsort(response, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(response[order])) + 1)


def _ratio(part: Array, whole: Array) -> float:
    return float(part.sum() / whole.sum())


def _sums(values: Array, tokens: Tokens, by_stratum: bool) -> Array:
    """(R, S) of values (T,) by response and stratum, or (R, 1) by response."""
    responses, strata = int(tokens.response.max()) + 1, int(tokens.stratum.max()) + 1
    number, strata = (tokens.response * strata + tokens.stratum, strata) if by_stratum else (tokens.response, 1)
    sums = np.bincount(number, values, responses * strata).astype(np.float64)
    return sums.reshape(responses, strata)


def _times_drawn(drawn: Whole, sums: Array) -> Array:
    """Sums (k, R, S) over the responses drawn (r, R), each as often as it was: (k, r, S)."""
    times = np.zeros((len(drawn), sums.shape[1]))
    np.add.at(times, (np.arange(len(drawn))[:, None], drawn), 1)
    return times @ sums


def _share(chosen: Array, tokens: Tokens) -> Callable[[Whole], Array]:
    values = np.where(tokens.weight > 0, tokens.squared, 0.0) * tokens.weight
    sums = np.stack([_sums(x, tokens, False) for x in (chosen * values, values)])

    def statistic(drawn: Whole) -> Array:
        held, whole = _times_drawn(drawn, sums)[..., 0]
        return np.where(whole > 0, held, np.nan) / np.where(whole > 0, whole, 1.0)

    return statistic


def _parts(chosen: Array, tokens: Tokens) -> Array:
    """(5, R, 1): what `gain` needs of each response."""
    strength = np.where(tokens.weight > 0, tokens.gradient, 0.0) * tokens.weight
    noise = tokens.noise
    parts = (strength, chosen * strength, noise, chosen * noise, chosen**2 * noise)
    return np.stack([_sums(x, tokens, False) for x in parts])


def _strength(chosen: Array, tokens: Tokens) -> tuple[Array, Array]:
    whole = _parts(chosen, tokens)[..., 0].sum(1)  # (5,)
    return whole[:2], whole[2:]


def _gain(chosen: Array, tokens: Tokens) -> Callable[[Whole], Array]:
    sums = _parts(chosen, tokens)

    def statistic(drawn: Whole) -> Array:
        parts = _times_drawn(drawn, sums)[..., 0]  # (5, r)
        known = parts[0] > 0
        safe = np.where(known, parts, 1.0)
        return np.where(known, gain(safe[:2], safe[2:], AMPLIFICATION), np.nan)

    return statistic
