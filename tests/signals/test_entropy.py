"""Token entropy and log-probability, in chunks and in the pass that reads the attention."""

import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.entropy import output_head, response_entropy, token_statistics
from attention_rhythm.signals.forward import forward_statistics, head_statistics

SIZES = dict(
    vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
)


def test_four_equal_chances_have_an_entropy_of_log_four():
    head = torch.nn.Linear(2, 4, bias=False)
    torch.nn.init.zeros_(head.weight)
    entropy, logprob = token_statistics(torch.ones(3, 2), head, torch.tensor([0, 1, 3]))
    torch.testing.assert_close(entropy, torch.full((3,), math.log(4)))
    torch.testing.assert_close(logprob, torch.full((3,), -math.log(4)))


def test_a_coin_by_hand():
    head = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight[:] = torch.tensor([[math.log(3.0)], [0.0]])  # p = 3/4, 1/4
    entropy, logprob = token_statistics(torch.ones(1, 1), head, torch.tensor([1]))
    assert entropy.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert logprob.item() == pytest.approx(math.log(0.25))


def test_logits_in_half_precision_are_widened_before_they_are_summed():
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 500).bfloat16(), torch.randn(5, 8).bfloat16()
    entropy, logprob = token_statistics(hidden, head, torch.arange(5))
    logp = head(hidden).double().log_softmax(-1)
    torch.testing.assert_close(entropy, -(logp.exp() * logp).sum(-1).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(logprob, logp[range(5), range(5)].float(), atol=1e-5, rtol=0)


def test_the_size_of_a_chunk_does_not_matter():
    torch.manual_seed(0)
    head, hidden, tokens = torch.nn.Linear(8, 50), torch.randn(37, 8), torch.randint(50, (37,))
    whole = token_statistics(hidden, head, tokens, chunk=1000)
    for chunk in (1, 10, 37):
        for a, b in zip(whole, token_statistics(hidden, head, tokens, chunk=chunk), strict=True):
            torch.testing.assert_close(a, b)


def test_no_more_logits_than_a_chunk_exist_at_once():
    rows = []
    head = torch.nn.Linear(8, 50)
    head.register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    token_statistics(torch.randn(100, 8), head, torch.zeros(100, dtype=torch.long), chunk=32)
    assert rows == [32, 32, 32, 4]


def test_entropy_belongs_to_the_token_that_was_drawn(tiny, batch):
    model = tiny("qwen2")
    ids, attention, response = batch([(4, 10), (0, 6)])
    with torch.no_grad():
        logp = model(input_ids=ids, attention_mask=attention.long()).logits.log_softmax(-1)
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    entropy, logprob = response_entropy(hidden, output_head(model), ids, response)
    for b in range(2):
        for t in response[b].nonzero()[:, 0].tolist():
            if t == 0:
                assert entropy[b, 0].isnan() and logprob[b, 0].isnan()
                continue
            row = logp[b, t - 1]
            assert entropy[b, t].item() == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-5)
            assert logprob[b, t].item() == pytest.approx(row[ids[b, t]].item(), abs=1e-5)
    assert entropy[~response].isnan().all()


def test_one_pass_gives_what_two_would(tiny, batch):
    model = tiny("qwen3")
    ids, _, response = batch([(4, 30), (2, 9)])
    statistics, entropy, _ = forward_statistics(model, ids, response, [1, 3], 10, [(2, 9), (0, None)])
    separate = head_statistics(model, ids, response, [1, 3], 10, [(2, 9), (0, None)])
    torch.testing.assert_close(statistics.span, separate.span)
    torch.testing.assert_close(statistics.waad, separate.waad, equal_nan=True)
    for a, b in zip(statistics.fai, separate.fai, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(
        entropy, response_entropy(hidden, output_head(model), ids, response)[0], equal_nan=True, atol=1e-4, rtol=1e-4
    )


def test_broken_logits_are_noticed(new_model, batch):
    model = new_model("llama")
    with torch.no_grad():
        model.lm_head.weight[7] = float("inf")
    ids, _, response = batch([(4, 5)])
    with pytest.raises(ValueError, match="NaN or inf in the logits"):
        forward_statistics(model, ids, response, [0], 10, [(0, None)])


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        (
            lambda **own: Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=2, **own)),
            {"final_logit_softcapping": 0.5},
        ),
        (lambda **own: GraniteForCausalLM(GraniteConfig(**SIZES, **own)), {"logits_scaling": 3.0}),
        (lambda **own: CohereForCausalLM(CohereConfig(**SIZES, **own)), {"logit_scale": 0.3}),
        (lambda **own: BertLMHeadModel(BertConfig(**SIZES, is_decoder=True, **own)), {}),
    ],
    ids=["soft cap", "divided", "multiplied", "head of several layers"],
)
def test_logits_are_what_the_models_own_forward_makes_of_hidden_states(batch, model, setting):
    torch.manual_seed(0)
    model = model(**setting).eval()
    ids, _, response = batch([(4, 10), (1, 6)])
    with torch.no_grad():
        logp = model(input_ids=ids).logits.log_softmax(-1)
    _, _, logprob = forward_statistics(model, ids, response, [0], 10, [(0, None)])
    expected = logp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]  # (B, N - 1)
    torch.testing.assert_close(logprob[:, 1:][response[:, 1:]], expected[response[:, 1:]], atol=1e-5, rtol=1e-5)


class Twice(LlamaForCausalLM):
    """Makes its logits of two passes of its decoder."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + super().forward(*args, **kwargs).logits
        return out


def test_logits_that_follow_from_more_than_hidden_states_are_refused(batch):
    model = Twice(LlamaConfig(**SIZES)).eval()
    ids, _, response = batch([(4, 10)])
    with pytest.raises(UnsupportedAttention, match="llama makes its logits of more than its hidden states"):
        forward_statistics(model, ids, response, [0], 10, [(0, None)])


def test_a_forward_that_a_library_has_put_into_the_decoder_is_there_afterwards(new_model, batch):
    """As accelerate does for models on several devices."""
    model = new_model("llama")
    ids, _, response = batch([(4, 10)])
    expected = forward_statistics(model, ids, response, [0], 10, [(0, None)])[2]
    own, seen = model.model.forward, []
    hooked = model.model.forward = lambda *args, **kwargs: seen.append(None) or own(*args, **kwargs)
    logp = forward_statistics(model, ids, response, [0], 10, [(0, None)])[2]
    assert vars(model.model)["forward"] is hooked and seen
    torch.testing.assert_close(logp, expected, equal_nan=True)


def test_the_logits_can_be_differentiated(new_model):
    model = new_model("llama")
    hidden = torch.randn(3, model.config.hidden_size, requires_grad=True)
    output_head(model)(hidden).sum().backward()
    torch.testing.assert_close(hidden.grad, model.lm_head.weight.sum(0).expand(3, -1))
