"""The equations of Sec. 4 on one map small enough to check by hand."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from attention_rhythm.signals import dense

NAN = float("nan")
MAP = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0],
        [0.2, 0.3, 0.5, 0.0],
        [0.4, 0.1, 0.2, 0.3],
    ],
    dtype=torch.float64,
)[None, None, None]  # (B=1, L=1, H=1, N=4, N=4)
RESPONSE = torch.tensor([[False, True, True, True]])


def test_eq_7_span_is_the_mean_distance_of_the_response_rows():
    # row 1: .5; row 2: .2 * 2 + .3 = .7; row 3: .4 * 3 + .1 * 2 + .2 = 1.6
    assert dense.span(MAP, RESPONSE).item() == pytest.approx((0.5 + 0.7 + 1.6) / 3)


def test_eq_9_waad_cuts_distances_at_the_window():
    np.testing.assert_allclose(dense.waad(MAP, 2).flatten(), [0, 0.5, 0.7, 0.4 * 2 + 0.1 * 2 + 0.2])
    np.testing.assert_allclose(dense.waad(MAP, 1).flatten(), [0, 0.5, 0.5, 0.7])  # W = 1: all but the diagonal
    np.testing.assert_allclose(dense.waad(MAP, 10).flatten(), [0, 0.5, 0.7, 1.6])  # W > N: the plain distance


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        # open: every response row from the token itself on
        ((0, None), [(0.5 + 0.2 + 0.4) / 3, (0.5 + 0.3 + 0.1) / 3, (0.5 + 0.2) / 2, 0.3]),
        # one or two tokens ahead; nobody is left to look at the last token
        ((1, 2), [(0.5 + 0.2) / 2, (0.3 + 0.1) / 2, 0.2, NAN]),
        ((3, 100), [0.4, NAN, NAN, NAN]),
    ],
)
def test_eq_10_fai_is_the_mean_over_later_response_rows(horizon, expected):
    np.testing.assert_allclose(dense.fai(MAP, RESPONSE, horizon).flatten(), expected)


def test_rows_of_the_prompt_do_not_count():
    only_last = torch.tensor([[False, False, False, True]])
    assert dense.span(MAP, only_last).item() == pytest.approx(1.6)
    np.testing.assert_allclose(dense.fai(MAP, only_last, (0, 2)).flatten(), [NAN, 0.1, 0.2, 0.3])


def test_maps_are_causal_and_their_rows_sum_to_one(tiny, batch):
    ids, attention, _ = batch([(3, 6), (2, 4)], side="left")
    maps = dense.attention_maps(tiny("qwen2"), ids, attention, [1, 4])
    assert maps.shape == (2, 2, 4, 9, 9) and maps.dtype == torch.float32
    assert maps[0].triu(1).abs().max() == maps[1].triu(1)[..., 3:, :].abs().max() == 0
    torch.testing.assert_close(maps.sum(-1)[1, :, :, 3:], torch.ones(2, 4, 6))
    assert maps[1, :, :, 3:, :3].max() == 0  # nobody looks at padding


def test_positions_count_from_the_first_token_that_is_no_padding(batch):
    """Of a model that learned them: rotary positions look the same from wherever they start."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    ids, attention, _ = batch([(3, 6), (2, 4)], side="left")
    padded = dense.attention_maps(model, ids, attention, [0, 1])[1:, ..., 3:, 3:]
    alone = dense.attention_maps(model, ids[1:, 3:], attention[1:, 3:], [0, 1])
    torch.testing.assert_close(padded, alone)
