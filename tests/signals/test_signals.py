"""What `attention_signals` promises about its inputs, and which models it refuses by name."""

import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.reading import SignalConfig, attention_signals, mean_over, right_padding

SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)


def test_waad_belongs_to_its_own_row_or_to_the_row_that_predicted_it(tiny, batch):
    inputs = batch([(4, 10), (2, 5)], "left")
    everywhere = (*inputs[:2], inputs[1])  # the whole sequence as a response: every row of WAAD shows
    heads = (torch.ones(3, 4, dtype=torch.bool),) * 2
    own = attention_signals(tiny("qwen2"), *everywhere, head_sets=heads)
    predictor = attention_signals(tiny("qwen2"), *inputs, SignalConfig(row="predictor"), head_sets=heads)
    for b in range(2):
        at = inputs[2][b].nonzero()[:, 0]
        torch.testing.assert_close(predictor.waad[b, at], own.waad[b, at - 1])
    assert torch.equal(predictor.fai.isnan(), attention_signals(tiny("qwen2"), *inputs).fai.isnan())


def test_nothing_predicted_the_first_token_of_a_sequence(tiny, batch):
    signals = attention_signals(tiny("qwen2"), *batch([(0, 6)]), SignalConfig(row="predictor"))
    assert signals.waad.isnan().tolist() == [[True] + [False] * 5]


def test_the_last_tokens_have_no_future(tiny, batch):
    signals = attention_signals(tiny("qwen2"), *batch([(3, 12)]), SignalConfig(horizon=(10, 100)))
    assert signals.fai.isnan()[0].tolist() == [True] * 3 + [False] * 2 + [True] * 10


def test_head_sets_may_be_given(tiny, batch):
    local = torch.zeros(3, 4, dtype=torch.bool)
    local[0, 1] = True
    signals = attention_signals(tiny("qwen2"), *batch([(3, 12), (2, 4)]), head_sets=(local, ~local))
    assert signals.local_heads.shape == (2, 3, 4)
    assert torch.equal(signals.local_heads[1], local) and torch.equal(signals.global_heads[0], ~local)


def test_the_mean_over_a_set_of_heads():
    per_head = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 2, 2, 1)  # (B=1, L=2, H=2, N=1)
    heads = torch.tensor([[[True, False], [True, True]]])
    assert mean_over(per_head, heads).item() == pytest.approx((1 + 4 + 8) / 3)


def test_padding_moves_to_the_right_and_back():
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    order, back = right_padding(mask)
    values = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    assert values.gather(1, order)[0, :2].tolist() == [12, 13]
    assert values.gather(1, order)[1, :3].tolist() == [20, 21, 22]
    assert torch.equal(values.gather(1, order).gather(1, back), values)


@pytest.mark.parametrize("method", ["streaming", "dense"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, a, r: (i, a, torch.zeros_like(r)), "sequence 0 has an empty response"),
        (lambda i, a, r: (i, a & (torch.arange(9) != 4), r), "sequence 0 has a hole"),
        (lambda i, a, r: (i, a, torch.ones_like(r)), "sequence 1 has response tokens outside"),
        (lambda i, a, r: (i[:, 1:], a, r), "one shape"),
    ],
)
def test_masks_that_make_no_sense_are_refused(unchecked, tiny, batch, method, change, message):
    with pytest.raises(ValueError, match=message):
        attention_signals(tiny("qwen2"), *change(*batch([(4, 5), (2, 4)])), method=method)


def test_an_unknown_method_is_refused(tiny, batch):
    with pytest.raises(ValueError, match="flash"):
        attention_signals(tiny("qwen2"), *batch([(4, 5)]), method="flash")


@pytest.mark.parametrize(
    "options", [{"window": 0}, {"horizon": (-1, 5)}, {"horizon": (5, 4)}, {"row": "next"}], ids=str
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SignalConfig(**options)


@pytest.mark.parametrize("method", ["streaming", "dense"])
def test_broken_weights_are_noticed(new_model, batch, method):
    model = new_model("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        attention_signals(model, *batch([(4, 5)]), method=method)


def gpt_oss():
    return GptOssForCausalLM(GptOssConfig(**SIZES, num_key_value_heads=2, head_dim=8, num_local_experts=4))


def gemma2():
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8))


def mistral(window):
    return MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=window))


@pytest.mark.parametrize("model", [gpt_oss, gemma2, lambda: mistral(8)], ids=["sinks", "soft cap", "short window"])
def test_attention_that_is_more_than_plain_is_read_as_it_is(batch, model):
    inputs = batch([(4, 16), (2, 9)])
    model = model().eval()
    streaming, dense = (attention_signals(model, *inputs, method=m) for m in ("streaming", "dense"))
    torch.testing.assert_close(streaming.waad, dense.waad, atol=1e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(streaming.fai, dense.fai, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Lfm2ForCausalLM(Lfm2Config(**SIZES, num_key_value_heads=2, layer_types=["conv"] * 2)), "lfm2"),
        (lambda: FalconForCausalLM(FalconConfig(**SIZES, alibi=True)), "falcon"),
    ],
    ids=["convolution", "alibi"],
)
def test_attention_that_is_not_understood_is_refused_by_name(batch, model, message):
    with pytest.raises(UnsupportedAttention, match=message):
        attention_signals(model().eval(), *batch([(4, 16)]))


def test_a_sliding_window_that_no_sequence_fills_changes_nothing(batch):
    inputs = batch([(4, 16)])
    model = mistral(20).eval()
    streaming, dense = (attention_signals(model, *inputs, method=m) for m in ("streaming", "dense"))
    torch.testing.assert_close(streaming.waad, dense.waad, atol=1e-4, rtol=0, equal_nan=True)


def test_dropout_in_training_is_refused(new_model, batch):
    model = new_model("llama", attention_dropout=0.1).train()
    with pytest.raises(UnsupportedAttention, match="eval"):
        attention_signals(model, *batch([(4, 16)]))
