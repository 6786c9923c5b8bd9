"""Attention knock-out: a model with a known anchor, made by hand, and a random one against plain masks."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from attention_rhythm.errors import InputError
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.attention import Attention
from attention_rhythm.signals.knockout import KnockOut, knock_out
from tests.support.models import build

ANCHOR, SAID = 5, 7  # where token 5 has been, the model says 7


@pytest.fixture(scope="module")
def anchored():
    """One layer, one head: every token looks for token 5 and, where it finds it, says 7."""
    size = 16
    config = LlamaConfig(
        vocab_size=8, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=size, rope_theta=1e9, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1)
        for token in range(8):
            model.model.embed_tokens.weight[token, token] = 1
            model.model.embed_tokens.weight[token, 8] = 1  # what all tokens share
        attention = model.model.layers[0].self_attn
        attention.q_proj.weight[size - 1, 8] = 6  # the last pair of numbers hardly turns with the position
        attention.k_proj.weight[size - 1, ANCHOR] = 6
        attention.v_proj.weight[9, ANCHOR] = 1
        attention.o_proj.weight[10, 9] = 1
        model.lm_head.weight[SAID, 10] = 1
    return model


TEXT = torch.tensor([1, 2, ANCHOR, 3, 4, SAID, 1])  # the anchor is at 2, what it makes the model say at 5


def test_the_anchor_is_found_and_nothing_else(anchored):
    effect = knock_out(anchored, TEXT, torch.tensor([1, 2, 3]), answer=slice(5, 6), distances=4)
    assert effect.kl[1, 0] > 0.1
    assert effect.kl[[0, 2]].nan_to_num().max() < 1e-3
    assert effect.answer[1] < -0.3
    assert effect.answer[[0, 2]].abs().max() < 1e-2
    assert effect.kl[2].isnan().tolist() == [False, False, True, True]  # tokens behind 3 that predict another


def test_in_no_head_nothing_is_lost_and_in_all_everything(anchored):
    at = torch.tensor([2])
    none = knock_out(anchored, TEXT, at, heads=torch.zeros(1, 1, dtype=torch.bool))
    every = knock_out(anchored, TEXT, at, heads=torch.ones(1, 1, dtype=torch.bool))
    plain = knock_out(anchored, TEXT, at)
    assert none.kl.nan_to_num().abs().max() == 0
    torch.testing.assert_close(every.kl, plain.kl, equal_nan=True)


def test_weight_that_goes_to_another_anchor_is_not_missed(anchored):
    text = torch.tensor([1, ANCHOR, ANCHOR, 3, 4, SAID, 1])
    at, other = torch.tensor([2, 2]), torch.tensor([1, 0])
    effect = knock_out(anchored, text, at, moved_to=other, distances=2)
    assert effect.kl[0].max() < 1e-4  # the same is found there
    assert effect.kl[1].max() > 0.02


def test_a_knock_out_is_a_mask_on_every_layer():
    """Against transformers' eager attention with a mask of its own."""
    model = build("llama")
    ids, position = torch.arange(1, 13), 4
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    mask[position + 1 :, position] = False
    model.set_attn_implementation("eager")
    additive = torch.zeros(1, 1, 12, 12).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        masked = model(input_ids=ids[None], attention_mask=additive).logits[0].log_softmax(-1)
        plain = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    effect = knock_out(model, ids, torch.tensor([position]), distances=3)
    expected = (plain.exp() * (plain - masked)).sum(-1)[position + 1 : position + 4]
    torch.testing.assert_close(effect.kl[0], expected, atol=1e-5, rtol=1e-4)
    rows = range(position + 1, 11)
    rest = sum((masked[t, ids[t + 1]] - plain[t, ids[t + 1]]).item() for t in rows)
    assert effect.rest[0].item() == pytest.approx(rest, abs=1e-4)


def test_the_position_itself_and_what_is_before_it_see_what_they_saw():
    q, k, v = (torch.randn(1, 2, 6, 4, generator=torch.manual_seed(n)) for n in range(3))
    layer, attention = torch.nn.Identity(), Attention(0.5)
    layer.layer_idx = 0
    plain = KnockOut(torch.tensor([6]), None, None, [0])(layer, q, k, v, attention)
    found = KnockOut(torch.tensor([3]), None, None, [0])(layer, q, k, v, attention)
    torch.testing.assert_close(found[:, :, :4], plain[:, :, :4])
    assert (found[:, :, 4:] - plain[:, :, 4:]).abs().amin() > 0


def test_what_cannot_be_knocked_out_is_refused(anchored):
    with pytest.raises(InputError, match="behind"):
        knock_out(anchored, TEXT, torch.tensor([6]))
    with pytest.raises(InputError, match="moved"):
        knock_out(anchored, TEXT, torch.tensor([2]), moved_to=torch.tensor([3]))
    with pytest.raises(UnsupportedAttention):
        knock_out(build("mistral", sliding_window=3), torch.arange(1, 13), torch.tensor([4]))
