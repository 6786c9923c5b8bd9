"""A long sequence read in pieces of rows has the signals of one that is read whole, in a fraction of its memory.

Pieces and tiles are of 16 rows here, and a layer that is read is handed 32 earlier keys at once.
"""

import dataclasses
from contextlib import suppress

import pytest
import torch

from attention_rhythm.errors import NotFinite
from attention_rhythm.signals import pieces, streaming
from attention_rhythm.signals.attention import Attention, described_attention
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from attention_rhythm.signals.streaming import LastLayerRead, tiled_attention
from tests.support import zoo
from tests.support.signals import EVERY_LAYER, LargestTensor, assert_equal_signals

PLAIN = {  # types whose layers have windows in the zoo
    "ministral": "ministral/window-256", "mistral": "mistral/no-window", "mixtral": "mixtral/no-window",
    "olmo3": "olmo3/window-256", "phi3": "phi3/no-window", "qwen2": "qwen2/plain", "qwen3": "qwen3/plain",
    "qwen3_moe": "qwen3_moe/plain", "smollm3": "smollm3/plain", "starcoder2": "starcoder2/no-window",
}  # fmt: skip
FEW = ("llama", "phi3", "qwen2")
ROPES = ["llama/dynamic-rope", "llama/yarn", "llama/llama3-rope", "phi3/longrope"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pieces, "ROWS", 16)
    monkeypatch.setattr(pieces, "_KEYS", 32)
    monkeypatch.setattr(streaming, "tile_rows", lambda length: 16)


@pytest.fixture
def whole(monkeypatch):
    """Signals of a pass without pieces, whatever the length."""

    def read(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "known", lambda *_: False)
            return attention_signals(*arguments)

    return read


def ran(module):
    """Lengths of what a module was called with, as they come."""
    seen = []
    module.register_forward_pre_hook(lambda _m, args, named: seen.append((args or [*named.values()])[0].shape[1]),
                                     with_kwargs=True)  # fmt: skip
    return seen


def test_averages_under_two_sets_of_keys_by_hand():
    """Masses of 1 and 3: a quarter of the one, three quarters of the other."""
    one = torch.tensor([[[0.0]]]), [torch.tensor([[[8.0]]]), torch.tensor([[[[4.0, 0.0]]]])]
    other = torch.tensor([[[3.0]]]).log(), [torch.tensor([[[0.0]]]), torch.tensor([[[[0.0, 4.0]]]])]
    lse, (distance, out) = pieces.joined(one, other)
    torch.testing.assert_close(lse.exp(), torch.tensor([[[4.0]]]))
    torch.testing.assert_close(distance, torch.tensor([[[2.0]]]))
    torch.testing.assert_close(out, torch.tensor([[[[1.0, 3.0]]]]))


def test_distances_to_keys_far_away():
    """One query at position 130 with equal scores for keys 0 to 63: 130 to 67 tokens away."""
    q, k = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 64, 4)
    _, lse, distance = tiled_attention(q, k, k, Attention(1.0), before=130)
    torch.testing.assert_close(lse.exp(), torch.tensor([[[64.0]]]))
    torch.testing.assert_close(distance, torch.tensor([[[(130 + 67) / 2]]]))


def test_distances_of_the_last_rows_alone_by_hand():
    """The queries of tokens 2 and 3 of four, with equal scores: 2, 1, 0 and 3, 2, 1, 0 tokens away."""
    q, k = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 4, 4)
    _, lse, distance = tiled_attention(q, k, k, Attention(1.0))
    torch.testing.assert_close(lse.exp(), torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(distance, torch.tensor([[[1.0, 1.5]]]))


@pytest.mark.parametrize("rows", [1, 30, 64, 70, 150])
def test_tiles_of_the_last_rows_are_the_last_of_all_tiles(rows):
    """Whatever block of keys the first of them stands in."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 150, 8), torch.randn(1, 2, 150, 8), torch.randn(1, 2, 150, 8)
    whole, last = (tiled_attention(x, k, v, Attention(0.3, window=90)) for x in (q, q[:, :, -rows:]))
    for all_rows, own in zip(whole, last, strict=True):
        torch.testing.assert_close(own, all_rows[:, :, -rows:])


def test_attention_that_is_not_causal_sees_every_key():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 11, 8), torch.randn(1, 2, 11, 8)
    out, lse = pieces.flash(q, k, v, 0.3, causal=False)
    scores = q @ k.repeat_interleave(2, 1).mT * 0.3
    torch.testing.assert_close(out, scores.softmax(-1) @ v.repeat_interleave(2, 1))
    torch.testing.assert_close(lse, scores.logsumexp(-1))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"window": 1},
        {"window": 40},
        {"window": 1000},
        {"horizon": (0, 0)},
        {"horizon": (0, None)},
        {"horizon": (30, None)},
        {"horizon": (20, 70)},
        {"layers": (5, 0)},
        {"layers": "all", "num_layers": None},
        {"row": "predictor"},
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_signals_are_those_of_eager_maps(new_model, batch, small, change, side):
    lengths = [(16, 64), (20, 90), (33, 1), (0, 17), (31, 2)]  # responses that begin at, before and after a piece's end
    inputs = batch(lengths, side)
    config = dataclasses.replace(SignalConfig(horizon=(2, 12)), **change)
    model = new_model("llama")
    seen = ran(model.model.layers[0].mlp)
    streaming = attention_signals(model, *inputs, config)
    assert seen[-7:] == [16] * 6 + [14], "110 tokens"
    assert_equal_signals(streaming, attention_signals(model, *inputs, config, method="dense"))


@pytest.mark.parametrize(
    "name",
    [
        *(PLAIN.get(kind, kind) for kind in FEW),
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in [*(PLAIN.get(kind, kind) for kind in sorted(pieces.TYPES.difference(FEW))), *ROPES]
        ),
    ],
)
def test_every_type_that_is_read_in_pieces(name, batch, small, whole):
    model = zoo.build(name)
    ids, attention, response = batch([(16, 54), (5, 60)])
    assert pieces.known(model, 70)
    inputs = model, ids % model.config.vocab_size, attention, response, EVERY_LAYER
    mine, theirs = attention_signals(*inputs), whole(*inputs)
    # each is as close to the truth as half of this
    torch.testing.assert_close(mine.waad, theirs.waad, atol=2e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(mine.fai, theirs.fai, atol=2e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(mine.head_span, theirs.head_span, atol=0, rtol=2e-5)


def test_half_precision_is_read_in_float32(new_model, batch, small, whole):
    """The model's own rounding differs between the two passes; that of one layer, which sees the same, does not."""
    model = new_model("llama", num_hidden_layers=1).to(torch.bfloat16)
    inputs = model, *batch([(20, 60)]), EVERY_LAYER
    assert_equal_signals(attention_signals(*inputs), whole(*inputs))


def test_layers_that_are_not_read_compute_what_they_compute_whole(new_model, batch, small):
    model = new_model("qwen3")
    ids, _, response = batch([(4, 60)])
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    recorder = pieces.PieceRecorder((2,), response, 10, [(2, 9)])
    with described_attention(model, recorder), pieces.layers_in_pieces(model), torch.no_grad():
        in_pieces = model.model(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(in_pieces, hidden, atol=1e-5, rtol=1e-5)


def test_a_window_that_is_filled_or_a_type_that_is_not_known_is_read_whole(new_model):
    model = new_model("mistral", sliding_window=2000)
    assert pieces.known(model, 2000) and not pieces.known(model, 2001)
    assert not pieces.known(model, pieces.ROWS) and pieces.known(model, pieces.ROWS + 1)
    model.config.model_type = "unheard_of"
    assert not pieces.known(model, 2000)


def test_the_pass_ends_after_the_last_layer_read_and_not_before_its_last_piece(new_model, batch, small):
    model = new_model("qwen2")  # six layers; "middle" is 2..4
    attention_signals(model, *batch([(4, 12)]))  # before the first reading, the model is asked what its layers are
    attentions = [ran(layer.self_attn) for layer in model.model.layers]
    mlps = [ran(layer.mlp) for layer in model.model.layers]
    attention_signals(model, *batch([(4, 31)]))
    assert attentions == [[16, 16, 3]] * 5 + [[]]
    assert mlps == [[16, 16, 3]] * 4 + [[], []], "what comes after the attention of the last layer is not computed"


def test_the_layers_are_as_before_afterwards(new_model, batch, small):
    """Also a forward that a library has put into one, as accelerate does for models on several devices."""
    model = new_model("llama")
    hooked = model.model.layers[1].forward = model.model.layers[1].forward
    with pieces.layers_in_pieces(model), suppress(LastLayerRead):
        assert all("forward" in vars(layer) for layer in model.model.layers)
        raise LastLayerRead
    assert ["forward" in vars(layer) for layer in model.model.layers] == [False, True, False, False, False, False]
    assert vars(model.model.layers[1])["forward"] is hooked


def test_what_is_broken_is_seen(new_model, batch, small):
    model = new_model("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0] = float("nan")
    with pytest.raises(NotFinite):
        attention_signals(model, *batch([(4, 60)]))


def test_nothing_is_larger_than_a_tile_of_attention(new_model, batch, small):
    """Four heads, 16 rows, keys up to whole blocks of 64; an MLP of 200 numbers a token would be larger."""
    for length in (200, 400):
        model = new_model("llama", intermediate_size=200)
        with LargestTensor() as watch:
            attention_signals(model, *batch([(16, length - 16)]), SignalConfig(horizon=(2, 12)))
        assert length * 32 <= watch.elements <= 4 * 16 * -(-length // 64) * 64 < length * 200
