"""Which layers are read and which heads are local, global or receivers: by hand first."""

import numpy as np
import pytest
import scipy.stats
import torch

from attention_rhythm.signals.heads import head_sets, kurtosis, receiver_heads, select_layers


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        ("middle", 5, (10, 12, 15, 18, 20)),  # floor(30/3) .. floor(60/3); 12.5 and 17.5 go to even, as numpy rounds
        ("bottom", 5, (0, 2, 5, 8, 10)),
        ("top", 5, (20, 22, 24, 27, 29)),  # 20 .. 29 in steps of 2.25
        ("all", 5, (0, 7, 14, 22, 29)),
        ("middle", None, tuple(range(10, 21))),
        ("all", None, tuple(range(30))),
        ((7, 3, 3), 5, (3, 7)),
    ],
)
def test_layers_of_a_model_of_thirty(layers, count, expected):
    assert select_layers(30, layers, count) == expected


def test_two_thirds_of_the_layers_are_not_twice_a_third():
    assert select_layers(32, "middle", None) == tuple(range(10, 22))  # floor(64/3) = 21, not 2 floor(32/3) = 20
    assert select_layers(32, "top", None) == tuple(range(21, 32))


def test_fewer_layers_than_asked_for_are_taken_once():
    assert select_layers(4, "middle", 5) == (1, 2)
    assert select_layers(1, "top", 5) == (0,)


@pytest.mark.parametrize(("layers", "message"), [("centre", "centre"), ((30,), "30"), ((), r"\(\)")])
def test_layers_that_do_not_exist_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        select_layers(30, layers, 5)


def test_the_lowest_spans_are_local_and_the_highest_global():
    span = torch.tensor([[5.0, 1.0, 4.0], [2.0, 6.0, 3.0]])
    local, glob = head_sets(span, 1 / 3)
    assert local.tolist() == [[False, True, False], [True, False, False]]
    assert glob.tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize(
    ("heads", "fraction", "size"), [(5, 0.3, 2), (5, 0.5, 3), (4, 0.3, 1), (3, 0.1, 1), (4, 1.0, 4)]
)
def test_the_size_of_a_set_is_rounded_with_halves_up(heads, fraction, size):
    local, glob = head_sets(torch.arange(heads).float()[None], fraction)
    assert int(local.sum()) == int(glob.sum()) == size


def test_equal_spans_go_to_the_lower_layer_and_head():
    local, glob = head_sets(torch.ones(2, 3), 1 / 3)
    assert local.tolist() == glob.tolist() == [[True, True, False], [False, False, False]]


def test_each_response_has_head_sets_of_its_own():
    span = torch.tensor([[[1.0, 2.0]], [[2.0, 1.0]]])  # (B=2, L=1, H=2)
    local, _ = head_sets(span, 0.5)
    assert local.tolist() == [[[True, False]], [[False, True]]]


def test_without_a_fraction_every_head_is_in_both_sets():
    local, glob = head_sets(torch.rand(2, 3), None)
    assert local.all() and glob.all()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fractions_outside_their_range_are_refused(fraction):
    with pytest.raises(ValueError, match="head_fraction"):
        head_sets(torch.rand(2, 3), fraction)


def test_kurtosis_is_scipys_over_the_defined_values():
    values = np.random.default_rng(0).standard_gamma(0.5, size=(3, 40))
    expected = scipy.stats.kurtosis(values, axis=1)
    padded = np.concatenate([values, np.full((3, 7), np.nan)], axis=1)
    np.testing.assert_allclose(kurtosis(torch.from_numpy(padded)), expected, rtol=1e-9)


def test_values_that_do_not_vary_have_no_kurtosis():
    assert kurtosis(torch.tensor([[0.5, 0.5, float("nan")]])).tolist() == [0.0]


def test_receivers_are_the_heads_of_highest_mean_kurtosis():
    # means 4, 0, 5, 6; the highest single one, 9, is not among the highest two
    received = torch.tensor([[[9.0, 0.0], [5.0, 6.0]], [[-1.0, 0.0], [5.0, 6.0]]])
    assert receiver_heads(received, 2).tolist() == [[False, False], [True, True]]
    assert receiver_heads(received, 20).all()
