"""What each rule calls a peak."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attention_rhythm.signals.peaks import RULES, find_peaks

NAN = float("nan")


def where(values, rule, **options):
    return np.flatnonzero(find_peaks(np.array(values), rule, **options)).tolist()


def test_a_local_maximum_is_higher_than_both_neighbours():
    assert where([0, 2, 1, 1, 3, 0], "local_maximum") == [1, 4]


def test_the_ends_are_no_local_maxima():
    assert where([5, 1, 0, 1, 5], "local_maximum") == []


def test_a_plateau_counts_once_in_its_middle():
    assert where([0, 2, 2, 2, 0], "local_maximum") == [2]


def test_a_peak_stands_out_by_half_a_standard_deviation():
    values = [0, 10, 0, 1, 0, 10, 0]  # std 4.4: the middle one stands out by 1, the others by 10
    assert where(values, "local_maximum") == [1, 3, 5]
    assert where(values, "prominence", prominence=0.5) == [1, 5]
    assert where(values, "prominence", prominence=0.2) == [1, 3, 5]


def test_the_standard_deviation_is_that_of_the_values_themselves():
    # std of 0, 1, 0 is sqrt(2) / 3 = 0.47 (over n - 1 it would be 0.58): a height of 1 is more than two of them
    assert where([0, 1, 0], "prominence", prominence=2.0) == [1]


def test_the_number_of_highest_values_is_free_of_rounding():
    assert len(where(range(100), "quantile", quantile=0.07)) == 7  # 0.07 * 100 is a little more than 7


def test_the_highest_fifth_are_peaks_and_ties_go_to_the_earlier():
    assert where([1, 3, 2, 3, 3, 0, 0, 0, 0, 0], "quantile", quantile=0.2) == [1, 3]
    assert where([1, 2, 3], "quantile", quantile=0.2) == [2]  # ceil(0.6) = 1


def test_undefined_values_are_left_out():
    assert where([0, 2, 1, NAN, NAN], "local_maximum") == [1]
    assert where([NAN, 1, 2, NAN], "quantile", quantile=0.5) == [2]
    assert where([NAN, NAN], "prominence") == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("values", [[], [1.0], [2.0, 1.0]])
def test_short_responses_do_not_fail(rule, values):
    assert find_peaks(np.array(values), rule).shape == (len(values),)


def test_a_flat_signal_has_no_peaks():
    assert where([0.1 + 0.2, 0.3, 0.1 + 0.2, 0.3][:1] * 6, "prominence") == []


def test_a_ripple_too_small_to_have_a_standard_deviation_is_no_peak():
    assert where([0, 1e-200, 0], "prominence") == []  # its square is 0


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="hill"):
        find_peaks(np.array([0.0, 1.0, 0.0]), "hill")


@given(hnp.arrays(float, st.integers(0, 60), elements=st.floats(-100, 100) | st.just(NAN)))
def test_properties(values):
    maxima = find_peaks(values, "local_maximum")
    prominent = find_peaks(values, "prominence")
    assert not (maxima | prominent)[np.isnan(values)].any()
    assert not (prominent & ~maxima).any()  # prominent peaks are local maxima
    shifted = find_peaks(np.r_[NAN, values, NAN], "local_maximum")
    assert (shifted[1:-1] == maxima).all()
    defined = (~np.isnan(values)).sum()
    assert find_peaks(values, "quantile", quantile=0.2).sum() == np.ceil(0.2 * defined - 1e-9)
