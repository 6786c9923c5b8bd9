"""Credit: every equation on examples small enough to work out by hand, then all options against plain Python."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_rhythm.credit import (
    OPTIONS,
    PRESETS,
    SIGNALS,
    CreditConfig,
    NoCreditError,
    check_credited,
    credit_weights,
    dominated_anchors,
    shape_advantages,
    waad_change,
)

NAN = float("nan")
CREDITED = [name for name in SIGNALS if name != "uniform"]


def gamma(config, **signals):
    """gamma of one response whose signals are given as lists; the response stands between a prompt and padding."""
    length = len(next(iter(signals.values())))
    mask = torch.tensor([[False, False, *[True] * length, False]])
    rows = {name: torch.tensor([[7.0, 7.0, *values, 7.0]]) for name, values in signals.items()}
    result = credit_weights(mask, config, **rows)
    assert result.dtype == torch.float32 and not result.requires_grad
    assert result[~mask].eq(1).all()
    return result[mask].tolist()


# --- equation by equation ---------------------------------------------------------------------------------------------


def test_eq_14_the_change_of_waad_is_undefined_at_the_last_response_token():
    waad = torch.tensor([[NAN, 1.0, 4.0, 4.0, 2.0, NAN]])
    torch.testing.assert_close(waad_change(waad), torch.tensor([[NAN, 3.0, 0.0, 2.0, NAN, NAN]]), equal_nan=True)


def test_eq_15_local_chunk_credits_the_largest_changes():
    # Delta = 3, 0, 2, 0: half of four
    assert gamma(CreditConfig("local_chunk", quantile=0.5), waad=[1, 4, 4, 2, 2]) == [1.5, 1, 1.5, 1, 1]


def test_eq_16_17_global_anchor_credits_the_highest_fai_of_the_defined_tokens():
    config = CreditConfig("global_anchor", quantile=0.5, amplification=2.0)
    assert gamma(config, fai=[0.1, 0.4, 0.2, 0.3, NAN, NAN]) == [1, 2, 1, 2, 1, 1]


def test_entropy_credits_the_least_certain_tokens():
    assert gamma(CreditConfig("entropy", quantile=0.25), entropy=[0.1, 2.0, 0.3, 1.0]) == [1, 1.5, 1, 1]


def test_uniform_is_one_everywhere():
    assert credit_weights(torch.ones(2, 3, dtype=torch.bool), CreditConfig("uniform")).tolist() == [[1] * 3] * 2


# WAAD's median is 3 and Delta's is 7; of seven defined FAI three are anchors: 3, 5 and 6.
#   position        0  1  2  3  4  5  6  7
RHYTHM = {"waad": [0, 9, 1, 1, 8, 8, 0, 5], "fai": [0.1, 0.1, 0.1, 0.9, 0.1, 0.8, 0.7, NAN]}
#   Delta           9  8  0  7  0  8  5  -


def test_eq_18_an_anchor_of_low_waad_after_a_large_change_is_dominated():
    anchors = torch.tensor([[False, False, False, True, False, True, True, False]])
    dominated, intro = dominated_anchors(
        anchors,
        torch.ones(1, 8, dtype=torch.bool),
        torch.tensor([RHYTHM["waad"]]).float(),
        CreditConfig(neighborhood=2),
    )
    assert dominated.nonzero()[:, 1].tolist() == [3, 6]  # 5 has a WAAD of 8
    assert intro.nonzero()[:, 1].tolist() == [1, 5]


def test_eq_19_is_a_literal_sum():
    config = CreditConfig(neighborhood=2, amplification=2.0, alpha=0.25)
    # 1 introduces 3; 5 introduces 6 and is an anchor in its own right: it gets both terms
    assert gamma(config, **RHYTHM) == [1, 1.25, 1, 1.75, 1, 2.25, 1.75, 1]


def test_eq_19_a_dominated_anchor_that_introduces_another_gets_both_terms():
    # Delta = 15, 5, 30, 0, 0 with median 5; WAAD's median is 25; anchors 1 and 2, introduced by 0 and 1
    config = CreditConfig(neighborhood=1, amplification=2.0, alpha=0.25, quantile=1 / 3)
    waad, fai = [20, 5, 0, 30, 30, 30], [0, 1, 1, 0, 0, 0]
    assert gamma(config, waad=waad, fai=fai) == [1.25, 2.0, 1.75, 1, 1, 1]


def test_eq_19_the_introduction_of_two_anchors_gets_its_term_once():
    # Delta = 0, 9, 0, 9, 0; both anchors, 2 and 3, are introduced by 1
    config = CreditConfig(neighborhood=2, amplification=2.0, alpha=0.25, quantile=1 / 3)
    assert gamma(config, waad=[9, 9, 0, 0, 9, 9], fai=[0, 0, 1, 1, 0, 0]) == [1, 1.25, 1.75, 1.75, 1, 1]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [1, 1, 2, 1]), (1.0, [1, 2, 1, 1])])
def test_alpha_moves_credit_from_the_anchor_to_its_introduction(alpha, expected):
    config = CreditConfig(amplification=2.0, alpha=alpha, quantile=0.25, neighborhood=1)
    assert gamma(config, waad=[5, 5, 0, 0], fai=[0, 0, 1, 0]) == expected


def test_the_introduction_is_the_largest_change_or_the_nearest_large_one():
    waad, fai = [0, 9, 2, 9, 0, 9, 9, 9], [0, 0, 0, 0, 1, 0, 0, 0]
    # Delta = 9, 7, 7, 9, 9, 0, 0 with median 7; the window of token 4 is 1, 2, 3
    config = CreditConfig(quantile=0.1, alpha=1.0)
    assert [i for i, g in enumerate(gamma(config, waad=waad, fai=fai)) if g > 1] == [3]
    config = replace(config, neighborhood=2)
    waad[1], waad[3] = 2, 2  # Delta = 2, 0, 0, 2, 9, 0, 0
    waad[2] = 0  # Delta = 2, 2, 2, 2, 9, 0, 0: the window 2, 3 ties
    assert [i for i, g in enumerate(gamma(config, waad=waad, fai=fai)) if g > 1] == [2]
    nearest = replace(config, intro="nearest")
    assert [i for i, g in enumerate(gamma(nearest, waad=waad, fai=fai)) if g > 1] == [3]


def test_the_first_token_of_a_response_is_never_dominated():
    config = CreditConfig(quantile=0.25)
    assert gamma(config, waad=[0, 9, 9, 9], fai=[1, 0, 0, 0]) == [1.5, 1, 1, 1]


def test_thresholds_may_be_other_quantiles():
    strict = CreditConfig(neighborhood=2, amplification=2.0, alpha=0.25, tau_waad=0.0)
    assert gamma(strict, **RHYTHM) == [1, 1, 1, 2, 1, 2.25, 1.75, 1]  # only a WAAD of 0 is low now
    strict = replace(strict, tau_waad=0.5, tau_delta=1.0)
    assert gamma(strict, **RHYTHM) == [1, 1, 1, 2, 1, 2, 2, 1]  # no change but 9 dominates


# --- which tokens TopQ takes ------------------------------------------------------------------------------------------


def test_ties_go_to_the_earlier_token():
    config = CreditConfig("global_anchor")
    assert gamma(config, fai=[0.3] * 5) == [1.5, 1.5, 1, 1, 1]
    assert gamma(replace(config, select="bottom"), fai=[0.3] * 5) == [1.5, 1.5, 1, 1, 1]
    assert gamma(config, fai=[0.1, 0.2, 0.2, 0.2, 0.2]) == [1, 1.5, 1.5, 1, 1]


def test_all_equal_signals_credit_the_exact_share():
    for strategy in ("local_chunk", "global_anchor", "entropy", "coupled_rhythm"):
        equal = {name: [0.0] * 10 for name in SIGNALS[strategy]}
        credited = sum(g != 1 for g in gamma(CreditConfig(strategy, alpha=0.0), **equal))
        assert credited == 4  # of 10, or of the 9 defined changes


def test_a_threshold_takes_all_that_tie_with_it():
    config = CreditConfig("global_anchor", topq="threshold", quantile=0.25)
    assert gamma(config, fai=[0.1, 0.3, 0.2, 0.3, 0.3]) == [1, 1.5, 1, 1.5, 1.5]
    assert gamma(config, fai=[0.0, 0.0, 0.0, 0.0]) == [1.5] * 4


def test_bottom_takes_the_lowest():
    config = CreditConfig("global_anchor", select="bottom", quantile=0.5)
    assert gamma(config, fai=[0.1, 0.4, 0.2, 0.3, NAN]) == [1.5, 1, 1.5, 1, 1]


@pytest.mark.parametrize(
    ("quantile", "length", "budget"),
    [(0.4, 10, 4), (0.4, 11, 5), (0.07, 100, 7), (0.3, 1, 1), (1.0, 6, 6), (0.1, 30, 3)],
)
def test_the_budget_is_exact(quantile, length, budget):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(4, length, dtype=torch.bool)
    credited = credit_weights(mask, CreditConfig("random", quantile=quantile), generator=generator) != 1
    assert credited.sum(1).tolist() == [budget] * 4


def test_responses_too_short_for_fai_have_no_anchors_unless_it_counts_as_zero():
    short = {"waad": [1.0, 2.0, 3.0], "fai": [NAN] * 3}
    assert gamma(CreditConfig(), **short) == [1, 1, 1]
    assert gamma(CreditConfig("global_anchor", undefined_fai="zero"), fai=[NAN] * 3) == [1.5, 1.5, 1]
    assert gamma(CreditConfig("local_chunk"), waad=[1.0]) == [1]  # its only token has no successor
    assert gamma(CreditConfig(), waad=[1.0], fai=[0.5]) == [1.5]


def test_random_credit_repeats_with_its_generator_and_only_with_it():
    mask = torch.ones(3, 40, dtype=torch.bool)
    first, again, other = (
        credit_weights(mask, CreditConfig("random"), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


# --- shaping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "expected"),
    [("both", [[2, 3], [-2, -3]]), ("positive", [[2, 3], [-2, -2]]), ("negative", [[2, 2], [-2, -3]])],
)
def test_eq_13_scales_the_advantages_of_the_wanted_sign(sign, expected):
    weights = torch.tensor([[1.0, 1.5]]).expand(2, 2)
    assert shape_advantages(torch.tensor([2.0, -2.0]), weights, sign).tolist() == expected
    assert shape_advantages(torch.tensor([[2.0, 2.0], [-2.0, -2.0]]), weights, sign).tolist() == expected


def test_no_gradient_flows_through_gamma():
    weights = torch.ones(1, 2, requires_grad=True)
    assert not shape_advantages(torch.ones(1), weights).requires_grad


def test_the_presets_differ_in_the_sign_they_scale():
    assert PRESETS["v2"] == CreditConfig()
    assert PRESETS["v1"] == replace(CreditConfig(), sign="positive")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [name for name, needed in SIGNALS.items() if needed])
def test_a_missing_signal_is_named(strategy):
    with pytest.raises(ValueError, match=f"{strategy}.*{SIGNALS[strategy][0]}"):
        credit_weights(torch.ones(1, 3, dtype=torch.bool), CreditConfig(strategy))


def test_random_credit_needs_a_generator():
    with pytest.raises(ValueError, match="generator"):
        credit_weights(torch.ones(1, 3, dtype=torch.bool), CreditConfig("random"))


@pytest.mark.parametrize(
    "options",
    [
        *({name: "other"} for name in OPTIONS),
        {"quantile": 0.0},
        {"quantile": 1.1},
        {"amplification": 0.0},
        {"alpha": 1.5},
        {"neighborhood": 0},
        {"tau_waad": -0.1},
        {"tau_delta": 2.0},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CreditConfig(**options)


def test_broken_signals_are_refused(unchecked):
    mask = torch.tensor([[False, True, True, True]])
    good = torch.tensor([[NAN, 1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="waad is infinite or undefined within the response of sequence 0"):
        credit_weights(mask, CreditConfig("local_chunk"), waad=torch.tensor([[0.0, 1.0, NAN, 3.0]]))
    with pytest.raises(ValueError, match="fai is infinite"):
        credit_weights(mask, CreditConfig("global_anchor"), fai=good / 0)
    with pytest.raises(ValueError, match="shape"):
        credit_weights(mask, CreditConfig("entropy"), entropy=good[:, 1:])
    with pytest.raises(ValueError, match="sequence 0 is not contiguous"):
        credit_weights(torch.tensor([[True, False, True]]), CreditConfig("uniform"))
    with pytest.raises(ValueError, match="sign"):
        shape_advantages(torch.ones(1), torch.ones(1, 2), "some")


def test_a_strategy_that_never_credits_is_refused_and_uniform_is_not():
    ones, credited = torch.ones(1, 3), torch.tensor([[1.0, 1.5, 1.0]])
    assert check_credited(False, credited, CreditConfig(), 10)
    assert check_credited(True, ones, CreditConfig(), 10)  # a batch of short responses after one with credit
    assert not check_credited(False, ones, CreditConfig("uniform"), 10)
    with pytest.raises(NoCreditError, match="responses of up to 10 tokens have no FAI"):
        check_credited(False, ones, CreditConfig(), 10)


def test_the_first_token_may_have_no_waad():
    """With `row="predictor"` nothing predicted the first token of a response without a prompt."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    waad = torch.tensor([[NAN, 1.0, 5.0, 5.0]])
    assert credit_weights(mask, CreditConfig("local_chunk"), waad=waad).tolist() == [[1, 1.5, 1, 1]]


# --- all options against plain Python ---------------------------------------------------------------------------------


def slow_quantile(values, level):
    if not values:
        return NAN
    ordered, place = sorted(values), level * (len(values) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def slow_top_q(score, config):
    """Indices of one response's credited tokens; `score` holds None where it is undefined."""
    keys = {t: (s if config.select == "bottom" else -s) for t, s in enumerate(score) if s is not None}
    if config.topq == "threshold":
        limit = slow_quantile(list(keys.values()), config.quantile)
        return {t for t, key in keys.items() if key <= limit}
    return set(sorted(keys, key=lambda t: (keys[t], t))[: math.ceil(config.quantile * len(keys) - 1e-9)])


def slow_gamma(config, waad, fai, entropy):
    n, extra = len(waad), config.amplification - 1
    delta = [abs(waad[t] - waad[t + 1]) for t in range(n - 1)] + [None]
    if config.undefined_fai == "zero":
        fai = [0.0 if f is None else f for f in fai]
    result = [1.0] * n
    if config.strategy != "coupled_rhythm":
        score = {"local_chunk": delta, "global_anchor": fai, "entropy": entropy}[config.strategy]
        for t in slow_top_q(score, config):
            result[t] += extra
        return result
    anchors, dominated, intro = slow_top_q(fai, config), set(), set()
    tau_waad, tau_delta = slow_quantile(waad, config.tau_waad), slow_quantile(delta[:-1], config.tau_delta)
    for t in anchors:
        window = range(max(0, t - config.neighborhood), t)
        large = [u for u in window if delta[u] >= tau_delta]
        if waad[t] <= tau_waad and large:
            dominated.add(t)
            intro.add(max(window, key=lambda u: (delta[u], -u)) if config.intro == "argmax" else large[-1])
    for t in range(n):
        result[t] += extra * (t in anchors - dominated)
        result[t] += (1 - config.alpha) * extra * (t in dominated) + config.alpha * extra * (t in intro)
    return result


responses = st.lists(  # few values, so that ties are common; the last `unknown` tokens have no FAI
    st.tuples(
        st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=24),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=4,
)
configs = st.builds(
    CreditConfig,
    strategy=st.sampled_from(["entropy", "local_chunk", "global_anchor", "coupled_rhythm", "coupled_rhythm"]),
    quantile=st.sampled_from([0.1, 0.25, 0.4, 0.5, 1.0]),
    amplification=st.sampled_from([0.5, 1.5, 2.0]),
    alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    neighborhood=st.integers(1, 30),
    tau_waad=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    tau_delta=st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    **{name: st.sampled_from(OPTIONS[name]) for name in ("select", "topq", "intro", "undefined_fai")},
)


@settings(deadline=None, max_examples=300)
@given(responses, configs)
def test_any_batch_under_any_options(rows, config):
    width = max(start + len(tokens) for tokens, _, start in rows)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    signals = {name: torch.full((len(rows), width), NAN) for name in ("waad", "fai", "entropy")}
    expected = torch.ones(len(rows), width)
    for b, (tokens, unknown, start) in enumerate(rows):
        own = slice(start, start + len(tokens))
        mask[b, own] = True
        waad, fai, entropy = ([value / 2 for value in column] for column in zip(*tokens, strict=True))
        fai = [f if t < len(fai) - unknown else None for t, f in enumerate(fai)]
        for name, values in (("waad", waad), ("fai", fai), ("entropy", entropy)):
            signals[name][b, own] = torch.tensor([NAN if v is None else v for v in values])
        expected[b, own] = torch.tensor(slow_gamma(config, waad, fai, entropy))
    assert torch.equal(credit_weights(mask, config, **signals), expected)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(CREDITED), st.integers(1, 60), st.sampled_from(["top", "bottom"]))
def test_no_strategy_credits_more_than_its_budget(seed, strategy, length, select):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(3, length, dtype=torch.bool)
    signals = {name: torch.rand(3, length, generator=generator) for name in SIGNALS[strategy]}
    config = CreditConfig(strategy, select=select, alpha=0.0)  # with alpha = 0 an introduction gets nothing
    credited = (credit_weights(mask, config, generator=generator, **signals) != 1).sum(1)
    defined = length - 1 if strategy == "local_chunk" else length
    assert credited.tolist() == [math.ceil(0.4 * defined - 1e-9)] * 3
