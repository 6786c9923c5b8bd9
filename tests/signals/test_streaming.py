"""Streaming signals equal the equations read off eager N x N maps: the project's central claim about its method.

Bounds, float32: WAAD 1e-4 tokens, FAI 1e-6, span 1e-5 relative; NaN in the same places and the same head sets.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from attention_rhythm.signals.attention import Attention
from attention_rhythm.signals.forward import head_statistics
from attention_rhythm.signals.pieces import mlps_in_pieces
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from attention_rhythm.signals.streaming import SignalRecorder, attention_and_span, band_statistics
from tests.support.signals import EVERY_LAYER, LargestTensor, assert_equal_signals

MIXED = [(5, 40), (1, 7), (12, 25), (3, 1)]  # (prompt, response) tokens


def both(model, batch, config, **options):
    return [attention_signals(model, *batch, config, method=m, **options) for m in ("streaming", "dense")]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sharing", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_every_architecture_head_sharing_and_padding(tiny, batch, kind, sharing, side):
    assert_equal_signals(*both(tiny(kind, sharing), batch(MIXED, side), SignalConfig(horizon=(2, 9))))


@pytest.mark.parametrize(
    "change",
    [
        {"window": 1},
        {"window": 3},
        {"window": 1000},
        {"horizon": (0, None)},
        {"horizon": (0, 0)},
        {"horizon": (7, None)},
        {"horizon": (10, 20)},
        {"horizon": (3, 10_000)},
        {"layers": "all"},
        {"layers": "top"},
        {"layers": "bottom"},
        {"layers": (5, 0)},
        {"layers": "all", "num_layers": None},
        {"num_layers": 1},
        {"head_fraction": 0.1},
        {"head_fraction": 0.5},
        {"head_fraction": None},
        {"row": "predictor"},
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_option(tiny, batch, change, side):
    config = dataclasses.replace(SignalConfig(horizon=(2, 12)), **change)
    assert_equal_signals(*both(tiny("qwen2"), batch(MIXED, side), config))


@pytest.mark.parametrize("horizon", [(10, 100), (0, None)], ids=str)
@pytest.mark.parametrize("response", [1, 5, 2000])
def test_responses_of_every_length(new_model, batch, response, horizon):
    model = new_model("llama", num_hidden_layers=2)
    config = SignalConfig(layers="all", num_layers=None, horizon=horizon)
    assert_equal_signals(*both(model, batch([(30, response)]), config))


def test_a_response_without_a_prompt(tiny, batch):
    assert_equal_signals(*both(tiny("qwen2"), batch([(0, 20)]), SignalConfig(horizon=(1, 5))))


def test_learned_positions_and_scores_scaled_layer_by_layer(batch):
    sizes = dict(vocab_size=61, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    model = GPT2LMHeadModel(GPT2Config(**sizes, scale_attn_by_inverse_layer_idx=True)).eval()
    assert_equal_signals(*both(model, batch([(4, 20)]), EVERY_LAYER))


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 90)), min_size=1, max_size=3),
    side=st.sampled_from(["left", "right"]),
    window=st.integers(1, 30),
    low=st.integers(0, 30),
    width=st.none() | st.integers(0, 60),
    row=st.sampled_from(["token", "predictor"]),
    seed=st.integers(0, 10),
)
def test_any_batch_and_any_window(tiny, batch, lengths, side, window, low, width, row, seed):
    horizon = (low, None if width is None else low + width)
    config = SignalConfig(window=window, horizon=horizon, layers="all", num_layers=2, row=row)
    heads = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    heads[:, 0] = True
    # head sets are given: those drawn from spans that are equal but for rounding may rightly differ
    assert_equal_signals(*both(tiny("llama"), batch(lengths, side, seed), config, head_sets=(heads, ~heads | heads)))


def test_values_stay_in_their_ranges(tiny, batch):
    _, _, response = inputs = batch(MIXED)
    signals = attention_signals(tiny("qwen3"), *inputs, SignalConfig(window=4, horizon=(0, None)))
    assert torch.equal(signals.waad.isnan(), ~response) and torch.equal(signals.fai.isnan(), ~response)
    assert signals.waad[response].min() >= -1e-5 and signals.waad[response].max() <= 4 + 1e-5
    assert signals.fai[response].min() >= 0 and signals.fai[response].max() <= 1
    assert signals.waad.dtype == signals.fai.dtype == signals.head_span.dtype == torch.float32
    assert not signals.waad.requires_grad


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sequence_does_not_depend_on_its_neighbours(tiny, batch, side):
    model = tiny("qwen2")
    together = attention_signals(model, *batch(MIXED, side), SignalConfig(horizon=(1, 10)))
    for b, (prompt, answer) in enumerate(MIXED):
        own = batch(MIXED, side)[1][b]
        single = (x[b : b + 1, own] for x in batch(MIXED, side))
        alone = attention_signals(model, *single, SignalConfig(horizon=(1, 10)))
        assert alone.waad.shape == (1, prompt + answer)
        torch.testing.assert_close(together.waad[b, own], alone.waad[0], atol=1e-5, rtol=0, equal_nan=True)
        torch.testing.assert_close(together.fai[b, own], alone.fai[0], atol=1e-7, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_widened_before_anything_is_summed(new_model, batch, dtype):
    """Against float64 attention of the very q and k that the half-precision model hands to its first layer."""
    model = new_model("llama", num_hidden_layers=1).to(dtype)
    ids, _, response = batch([(20, 300)])
    seen = {}
    project = model.model.layers[0].self_attn

    def keep(module, args, kwargs):
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        hidden = kwargs["hidden_states"]
        shape = (*hidden.shape[:-1], -1, module.head_dim)
        q, k = (p(hidden).view(shape).transpose(1, 2) for p in (module.q_proj, module.k_proj))
        seen["q"], seen["k"] = apply_rotary_pos_emb(q, k, *kwargs["position_embeddings"])

    handle = project.register_forward_pre_hook(keep, with_kwargs=True)
    result = head_statistics(model, ids, response, [0], 10, [(10, 100)])
    handle.remove()

    q, k = seen["q"].double(), seen["k"].double().repeat_interleave(2, 1)
    n = ids.shape[1]
    distance = torch.arange(n)[:, None] - torch.arange(n)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
    waad = (weights * distance.clamp(max=10)).sum(-1)[..., 20:]
    torch.testing.assert_close(result.waad[0, 0, :, 20:], waad[0].float(), atol=1e-4, rtol=0)
    span = (weights * distance).sum(-1)[..., 20:].mean(-1)
    torch.testing.assert_close(result.span[0, 0], span[0].float(), atol=0, rtol=1e-5)


def test_bfloat16_loses_nothing_but_what_float32_scores_lose():
    """Against float64 of the same bfloat16 q, k and v, as SmolLM2 has them: 9 heads of 64 numbers, 3 of keys.

    A float32 product of 64 terms is wrong by a few units in the last place of the largest score, and a weight by as
    much, relatively: a span too, and a sum of weights times at most W. Weights or positions rounded to bfloat16 would
    be wrong by 2^-9, a thousand times more.
    """
    n, window, low, high = 700, 10, 10, 100
    generator = torch.Generator().manual_seed(0)
    q = 2 * torch.randn(1, 9, n, 64, generator=generator)
    k, v = torch.randn(2, 1, 3, n, 64, generator=generator)
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    t = torch.arange(n)
    response, distance = t >= n // 4, (t[:, None] - t).double()
    recorder = SignalRecorder([0], response[None], window, [(low, high)])
    out = recorder(SimpleNamespace(layer_idx=0), q, k, v, Attention(0.125))
    result = recorder.statistics()

    scores = q.double() @ k.double().repeat_interleave(3, 1).mT * 0.125
    scores = scores.masked_fill(distance < 0, -torch.inf)
    weights = scores.softmax(-1)  # (1, 9, n, n)
    step = 4 * 2**-24 * float(scores[scores > -torch.inf].abs().max())  # relative error of a weight
    assert step < 2**-9 / 500
    span = (weights * distance).sum(-1)[..., response].mean(-1)
    assert ((result.span[0] - span).abs() / span).max() < step
    waad = (weights * distance.clamp(max=window)).sum(-1)[..., response]
    assert (result.waad[0][..., response] - waad).abs().max() < window * step
    band = (distance >= low) & (distance <= high) & response[:, None]
    fai = (weights * band).sum(-2) / band.sum(0)  # (1, 9, n)
    seen = response & (band.sum(0) > 0)
    assert ((result.fai[0][0] - fai).abs() / fai)[..., seen].max() < step
    mixed = weights @ v.double().repeat_interleave(3, 1)
    torch.testing.assert_close(out.double(), mixed, rtol=2**-8, atol=1e-5)  # half a step of bfloat16


def test_attention_that_is_read_keeps_its_gradients():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 150, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    out, _, _ = attention_and_span(q, k, v, 0.3)
    own = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), [q, k, v]),
                               torch.autograd.grad(own.square().sum(), [q, k, v]), atol=1e-5, rtol=1e-4)  # fmt: skip


def test_values_of_another_size_than_the_keys():
    """Multi-head latent attention has value heads smaller than its key heads."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 50, 48), torch.randn(1, 2, 50, 48), torch.randn(1, 2, 50, 16)
    out, lse, distance = attention_and_span(q, k, v, 0.2)
    n = torch.arange(50)
    scores = (q @ k.repeat_interleave(2, 1).mT * 0.2).masked_fill(n > n[:, None], -torch.inf)
    weights = scores.softmax(-1)
    torch.testing.assert_close(out, weights @ v.repeat_interleave(2, 1))
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(distance, (weights * (n[:, None] - n)).sum(-1), atol=1e-4, rtol=1e-5)


def test_far_keys_keep_their_digits():
    """At 30,000 tokens a position column alone would lose 1e-3 of the distance of a head that looks one token back."""
    n, size = 30_000, 8
    k = torch.nn.functional.normalize(torch.randn(n, size, generator=torch.Generator().manual_seed(0)), dim=-1)
    q = torch.roll(k, -1, 0)[:-1] * 0  # uniform attention: mean distance t / 2, exactly
    q = torch.cat([q, q[:1]])[None, None]
    _, _, distance = attention_and_span(q, k[None, None], k[None, None], 1.0)
    torch.testing.assert_close(distance[0, 0], torch.arange(n) / 2, rtol=2e-6, atol=1e-3)


@pytest.mark.parametrize("horizon", [(10, 100), (0, None)], ids=str)
def test_memory_grows_with_the_length_not_with_its_square(new_model, batch, horizon):
    model = new_model("llama", num_hidden_layers=2)
    largest = []
    for length in (512, 1024, 2048):
        with LargestTensor() as watch:
            attention_signals(model, *batch([(1, length - 1)]), SignalConfig(layers="all", horizon=horizon))
        largest.append(watch.elements)
        assert watch.elements < length * length
    assert largest[2] <= 2.1 * largest[1]  # twice as long, twice as large; all tiles are whole


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_mlps_in_pieces_compute_the_same_from_fewer_positions_at_once(tiny, batch, kind):
    model = tiny(kind)
    ids, _, _ = batch([(4, 12)])
    whole = model(input_ids=ids).logits
    seen = []
    handle = model.model.layers[0].mlp.gate_proj.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[1]))
    with mlps_in_pieces(model, rows=7):
        torch.testing.assert_close(model(input_ids=ids).logits, whole)
    assert seen == [7, 7, 2]
    model(input_ids=ids)
    handle.remove()
    assert seen == [7, 7, 2, 16]  # as before


def test_a_shared_expert_gets_all_positions_of_a_batch_in_one_axis(tiny):
    mlp = tiny("llama").model.layers[0].mlp
    hidden = torch.randn(50, 32)  # (M, D)
    whole, seen = mlp(hidden), []
    handle = mlp.gate_proj.register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    with mlps_in_pieces(mlp, rows=40):
        torch.testing.assert_close(mlp(hidden), whole)
    handle.remove()
    assert seen == [40, 10]


def test_an_mlp_that_takes_more_than_positions_is_left_whole():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj = self.down_proj = torch.nn.Linear(4, 4)

        def forward(self, hidden, gammas):
            return self.down_proj(hidden) * gammas

    mlp, hidden, gammas = Gated(), torch.randn(1, 9, 4), torch.randn(1, 9, 1)
    whole = mlp(hidden, gammas=gammas)
    with mlps_in_pieces(mlp, rows=2):
        torch.testing.assert_close(mlp(hidden, gammas=gammas), whole)


def test_a_forward_that_a_library_has_put_into_an_mlp_is_there_afterwards(tiny):
    """As accelerate does for models on several devices."""
    mlp = tiny("llama").model.layers[0].mlp
    hooked = mlp.forward = mlp.forward
    with mlps_in_pieces(mlp):
        assert mlp.forward is not hooked
    assert vars(mlp)["forward"] is hooked
    del mlp.forward


def test_the_forward_pass_ends_after_the_last_layer_read(tiny, batch):
    model = tiny("qwen2")  # six layers; "middle" is 2..4
    attention_signals(model, *batch([(4, 12)]))  # before the first reading, the model is asked what its layers are
    ran = []
    watched = {**{f"layer {i}": layer for i, layer in enumerate(model.model.layers)}, "head": model.lm_head}
    handles = [m.register_forward_pre_hook(lambda *_, name=name: ran.append(name)) for name, m in watched.items()]
    attention_signals(model, *batch([(4, 12)]))
    for handle in handles:
        handle.remove()
    assert ran == ["layer 0", "layer 1", "layer 2", "layer 3", "layer 4"]


def test_the_model_is_as_before_afterwards(tiny, batch):
    model = tiny("llama")
    ids, attention, response = batch([(4, 12)])
    before = model(input_ids=ids).logits
    implementation = model.config._attn_implementation
    attention_signals(model, ids, attention, response)
    attention_signals(model, ids, attention, response, method="dense")
    assert model.config._attn_implementation == implementation
    assert torch.equal(model(input_ids=ids).logits, before)


def test_the_band_by_hand():
    """Two tokens of one head, keys equal: uniform attention."""
    q = torch.zeros(1, 1, 3, 4)
    lse = torch.log(torch.tensor([[[1.0, 2.0, 3.0]]]))
    waad, (fai,) = band_statistics(q, q, lse, Attention(1.0), torch.tensor([[False, True, True]]), 10, [(1, 2)])
    np.testing.assert_allclose(waad.flatten(), [0, 1 / 2, (1 + 2) / 3], atol=1e-5)
    np.testing.assert_allclose(fai.flatten(), [(1 / 2 + 1 / 3) / 2, 1 / 3, np.nan], atol=1e-7)


def test_a_key_that_no_row_may_see_cannot_overflow():
    """exp(score - lse) above the diagonal is inf in float32: a row of log-sum-exp 0 beside a later key of score 200."""
    q = torch.ones(1, 1, 2, 1)
    k = torch.tensor([0.0, 200.0]).view(1, 1, 2, 1)
    lse = torch.tensor([[[0.0, 200.0]]])
    waad, (fai,) = band_statistics(q, k, lse, Attention(1.0), torch.tensor([[True, True]]), 10, [(0, None)])
    np.testing.assert_allclose(waad.flatten(), [0, 0], atol=1e-5)  # both look at themselves
    np.testing.assert_allclose(fai.flatten(), [1 / 2, 1], atol=1e-7)


@pytest.mark.slow
def test_a_real_language_model_on_real_text():
    """SmolLM2 with a worked answer to a generated problem: every layer, the horizon of the analysis and that of RL."""
    from attention_rhythm.models import load_model
    from attention_rhythm.tasks.problems import load_problems
    from attention_rhythm.tasks.prompts import build_prompt_ids

    model, tokenizer = load_model("smollm2-135m-instruct")
    (problem,) = load_problems("gsm_symbolic", limit=1)
    prompt = build_prompt_ids(problem, tokenizer)
    text = f"First, we write down what is known. {problem.question} Then the answer is {problem.answer}."
    answer = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt + answer])
    mask = torch.ones_like(ids, dtype=torch.bool)
    response = torch.arange(ids.shape[1])[None] >= len(prompt)
    for horizon in ((0, None), (10, 100)):
        config = SignalConfig(layers="all", num_layers=None, horizon=horizon)
        assert_equal_signals(*both(model, (ids, mask, response), config))
    assert_equal_signals(*both(model, (ids, mask, response), SignalConfig()))
