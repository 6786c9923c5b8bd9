"""Couplings under controls: like compared with like, by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.controls import PREDICTED, Cells, controlled, statistics_of, strata
from analysis.couplings import STATISTICS

NAN = float("nan")


def table(response, ids, entropy, waad, fai=None, receiver=None, defined=None):
    n = len(ids)
    none = [False] * n
    return pd.DataFrame(
        {"response": response, "t": range(n), "token_id": ids, "entropy": entropy, "waad_peak": waad,
         "fai_peak": fai or none, "receiver_peak": receiver or none,
         "fai": np.where(np.ones(n, bool) if defined is None else defined, 0.1, NAN)}
    )  # fmt: skip


T, F = True, False
# Token 7 is uncertain wherever it stands; peaks are on it. Nothing is left of the lift when it is compared with itself.
TYPES = pd.concat(
    [
        table("a", [1, 7, 2, 7, 3], [0, 4, 0, 4, 0], [F, T, F, T, F]),
        table("b", [7, 1, 7, 2, 3], [4, 0, 4, 0, 0], [T, F, T, F, F]),
    ],
    ignore_index=True,
)


def lifts(tokens):
    found = controlled(tokens, resamples=50, seed=0)
    return found.set_index(["statistic", "control"])


def test_a_lift_that_is_the_tokens_type_is_gone_within_types():
    found = lifts(TYPES)
    assert found.loc[("waad_peak_entropy", "none"), "lift"] == pytest.approx(100 * (4 / 1.6 - 1))
    assert found.loc[("waad_peak_entropy", "type"), "lift"] == pytest.approx(0)
    assert found.loc[("waad_peak_entropy", "type"), "compared"] == 100
    assert found.loc[("waad_peak_entropy", "none"), "density"] == 40


def test_a_peak_whose_token_is_nowhere_else_is_left_out():
    tokens = TYPES.copy()
    tokens.loc[1, "token_id"] = 99
    found = lifts(tokens)
    assert found.loc[("waad_peak_entropy", "type"), "compared"] == 75


def cells(stratum, elsewhere=True):
    value, usable = np.array([1.0, 3.0, 5.0, NAN]), np.array([T, T, T, F])
    chosen = np.array([F, T, T, F])
    return Cells.of(np.array(stratum), np.array([0, 0, 1, 1]), chosen, value, usable, elsewhere=elsewhere)


BOTH = np.array([[0, 1]])


def test_what_is_expected_comes_from_other_responses():
    # 3 against 5, and 5 against (1 + 3) / 2
    assert cells([0, 0, 0, 0]).lift(BOTH)[0] == pytest.approx((3 + 5) / (5 + 2) - 1)
    assert cells([0, 0, 0, 0], elsewhere=False).lift(BOTH)[0] == pytest.approx((3 + 5) / (3 + 3) - 1)
    assert np.isnan(cells([0, 1, 2, 2]).lift(BOTH)[0])  # no stratum is in both
    assert cells([0, 1, 2, 2]).compared() == 0


def test_copies_of_a_response_are_no_other_response():
    assert np.isnan(cells([0, 0, 0, 0]).lift(np.array([[0, 0]]))[0])


def test_places_are_fifths_of_each_response():
    tokens = pd.concat([table("a", [1] * 10, [0] * 10, [F] * 10), table("b", [1] * 5, [0] * 5, [F] * 5)])
    tokens = tokens.reset_index(drop=True)
    assert strata(tokens, "place").tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 1, 2, 3, 4]


def test_the_entropy_that_a_peaks_own_row_predicts_is_that_of_the_next_token():
    tokens = table("a", [1, 2, 3, 4], [1, 2, 4, 8], [F, T, F, T])
    chosen, value, _ = statistics_of(tokens)[PREDICTED]
    assert chosen.tolist() == [F, T, F, F]  # nothing follows the last
    assert value[1] == 4


def test_follows_and_coincides_as_in_table_2():
    tokens = table("a", [1] * 6, [0] * 6, [F, T, F, F, T, F], fai=[F, T, F, T, F, T], receiver=[F, T, F, F, T, F])
    found = statistics_of(tokens)
    assert tuple(found)[:3] == STATISTICS
    chosen, near, usable = found["fai_follows_or_coincides_waad"]
    assert (near[chosen].sum(), chosen.sum(), near[usable].sum(), usable.sum()) == (2, 3, 4, 6)


def test_a_response_does_not_end_in_the_next():
    tokens = pd.concat([table("a", [1, 1], [0, 0], [F, T]), table("b", [1, 1], [5, 5], [F, F])]).reset_index(drop=True)
    _, near, _ = statistics_of(tokens)["fai_follows_or_coincides_waad"]
    assert near.tolist() == [0, 1, 0, 0]
