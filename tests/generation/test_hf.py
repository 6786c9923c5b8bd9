"""The prefix-sharing decoder against transformers' own `generate`, and what sampling promises."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from attention_rhythm.generation.base import GenerationError, Prefix, SamplingConfig
from attention_rhythm.generation.choice import Rows, make_decoder, shared_prefix_refusal
from attention_rhythm.generation.decoding import CacheDecoder, PrefixDecoder
from attention_rhythm.generation.hf import HFGenerator, Repetition, continue_rows, draw, log_probability, uniform_draws
from attention_rhythm.signals.architecture import UnsupportedAttention
from tests.support.generation import distance, greedy

SIZES = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, max_position_embeddings=256)
MODELS = {
    "llama-gqa": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)),
    "llama-mqa": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=1)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=4, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)),
}


class Letters:
    """A tokenizer that is enough for a generator."""

    eos_token_id = 96
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i == self.eos_token_id))


def make(name, seed=0):
    torch.manual_seed(seed)
    return sharpened(MODELS[name]().eval())


def sharpened(model):
    """Random weights give near-uniform logits: with sharper ones, arg max is no coin toss."""
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.generation_config.eos_token_id = Letters.eos_token_id
    return model


def prompts(rng, count=5):
    return [rng.integers(1, 90, size=int(n)).tolist() for n in rng.integers(1, 30, size=count)]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_completions_equal_those_of_transformers(name):
    model, batch = make(name), prompts(np.random.default_rng(1))
    ours = HFGenerator(model, Letters()).generate(batch, SamplingConfig(max_new_tokens=80, temperature=0))
    for prompt, completion in zip(batch, ours, strict=True):
        reference = greedy(model, prompt, 80)
        assert completion.token_ids == reference
        assert completion.finish_reason == ("stop" if reference[-1] == 96 else "length")


@pytest.mark.parametrize("name", ["llama-gqa", "qwen3"])
def test_log_probabilities_are_those_of_one_forward_pass(name):
    model, batch = make(name), prompts(np.random.default_rng(2))
    for prompt, completion in zip(
        batch, HFGenerator(model, Letters()).generate(batch, SamplingConfig(max_new_tokens=20, seed=3)), strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=2e-5, rtol=1e-5)


def test_a_sample_does_not_depend_on_its_neighbours_or_on_the_limit():
    model, batch = make("qwen3"), prompts(np.random.default_rng(3))
    generator = HFGenerator(model, Letters())
    together = generator.generate(batch, SamplingConfig(max_new_tokens=24, samples=3, seed=5))
    alone = [
        c
        for p in reversed(batch)
        for c in generator.generate([p], SamplingConfig(max_new_tokens=12, samples=3, seed=5))
    ]
    alone = [alone[3 * (len(batch) - 1 - p) + s] for p in range(len(batch)) for s in range(3)]
    assert [c.token_ids[:12] for c in together] == [c.token_ids for c in alone]
    other = generator.generate(batch, SamplingConfig(max_new_tokens=24, samples=3, seed=6))
    assert [c.token_ids for c in together] != [c.token_ids for c in other]
    assert together[0].token_ids != together[1].token_ids


def test_continuations_of_a_prefix_are_those_of_it_as_a_prompt_whatever_shares_their_batch():
    model = make("qwen3")
    generator = HFGenerator(model, Letters())
    text = prompts(np.random.default_rng(6), 1)[0] + [5, 9, 11, 4, 7, 3]
    prefixes = [Prefix(0, 3, text[3], 12), Prefix(0, 5, 40, 6), Prefix(0, 1, text[1], 12)]  # 40 stands not in the text
    found = generator.continue_prefixes([text], prefixes, 4, 5)
    for prefix, rows in zip(prefixes, found, strict=True):
        prompt = [*text[: prefix.visible], prefix.first]
        alone = generator.generate([prompt], SamplingConfig(max_new_tokens=prefix.limit, samples=4, seed=5))
        assert rows == [completion.token_ids for completion in alone]
    assert generator.continue_prefixes([text, text[:2]], prefixes[::-1], 2, 5) == [rows[:2] for rows in found[::-1]]
    assert generator.continue_prefixes([text], [], 4, 5) == []


def test_sampling_follows_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    u = torch.linspace(0, 1, 10_001)[:-1]
    drawn = draw(logits.expand(len(u), -1), 0.5, u)
    share = torch.bincount(drawn, minlength=4) / len(u)
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(-1), atol=2e-4, rtol=0)
    assert uniform_draws([1, 2], 0, 0, 5).tolist() == uniform_draws([1, 2], 0, 0, 50)[:5].tolist()


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 1000, 40_000])
def test_a_token_is_drawn_where_the_sum_of_probabilities_passes_the_uniform_number(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(50, vocabulary, generator=generator)
    uniform = torch.rand(50, dtype=torch.float64, generator=generator)
    drawn = draw(logits, 0.8, uniform)
    upto = (logits.double() / 0.8).softmax(-1).cumsum(-1)  # (50, V)
    until = upto.gather(-1, drawn[:, None])[:, 0]
    before = torch.where(drawn > 0, upto.gather(-1, (drawn - 1).clamp(min=0)[:, None])[:, 0], 0)
    assert bool(((before - 1e-6 <= uniform) & (uniform <= until + 1e-6)).all())  # as exact as float32 weights are


@pytest.mark.parametrize("possible", [[70], [3, 70], [63, 64], [0, 129], list(range(40, 100))])
def test_a_token_of_probability_zero_is_never_drawn(possible):
    """Not at the ends of [0, 1), nor where rounding may decide: at every sum of probabilities, and right beside it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((130,), -500.0)
    logits[possible] = torch.randn(len(possible), generator=generator)
    sums = logits.softmax(-1).double().cumsum(-1)
    ends = torch.tensor([0.0, np.nextafter(1, 0)], dtype=torch.float64)
    beside = [torch.nextafter(sums, torch.full_like(sums, side)) for side in (0.0, 1.0)]
    between = (sums[1:] + sums[:-1]) / 2
    uniform = torch.cat([ends, sums, *beside, between]).clamp(max=float(ends[1]))
    assert set(draw(logits.expand(len(uniform), -1), 1.0, uniform).tolist()) == set(possible)


def test_log_probabilities_are_those_of_a_log_softmax_however_many_rows():
    logits = torch.randn(70, 40_000, generator=torch.Generator().manual_seed(0))  # more than are taken at once
    tokens = torch.arange(70) * 500
    expected = logits.log_softmax(-1)[torch.arange(70), tokens]
    torch.testing.assert_close(log_probability(logits, tokens), expected)
    assert log_probability(torch.zeros(1, 4), torch.tensor([2])).tolist() == pytest.approx([-math.log(4)])


def test_rows_that_branch_from_one_prefix_equal_their_own_full_decoding():
    """Each row sees its own share of the common prefix, then a forced token, then goes on greedily."""
    model = make("llama-gqa")
    rng = np.random.default_rng(4)
    sequences = [rng.integers(1, 90, size=n).tolist() for n in (40, 25)]
    group, visible, first = [0, 1, 0, 0, 1], [10, 24, 39, 1, 3], [5, 6, 7, 8, 9]
    limits = [30, 3, 17, 30, 1]
    tokens, _ = continue_rows(
        model, sequences, group, visible, first, limits, {96}, lambda logits, rows, step: logits.argmax(-1)
    )
    for row in range(5):
        start = [*sequences[group[row]][: visible[row]], first[row]]
        assert tokens[row] == greedy(model, start, limits[row])


def test_new_weights_are_taken_over():
    first, second = make("qwen3", seed=0), make("qwen3", seed=1)
    prompt, sampling = [[1, 2, 3]], SamplingConfig(max_new_tokens=10, temperature=0)
    expected = HFGenerator(second, Letters()).generate(prompt, sampling)
    generator = HFGenerator(first, Letters())
    assert generator.generate(prompt, sampling) != expected
    generator.update_weights(second.named_parameters())
    assert generator.generate(prompt, sampling)[0].token_ids == expected[0].token_ids


def test_a_prompt_longer_than_the_context_is_refused():
    with pytest.raises(GenerationError, match="300 tokens is longer than the context of 256"):
        HFGenerator(make("qwen3"), Letters()).generate([[1] * 300], SamplingConfig())


@pytest.mark.parametrize("broken", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_logit_that_is_not_finite_is_refused(broken, dtype):
    model = make("qwen3").to(dtype)
    with torch.no_grad():
        model.lm_head.weight[3] = 0
        model.lm_head.weight[3, 3] = float(broken)
    with pytest.raises(GenerationError, match="NaN"):
        HFGenerator(model, Letters()).generate([[1, 2]], SamplingConfig(max_new_tokens=2))


# --- models that the shared prefixes are not right for ----------------------------------------------------------------


def windowed(window=8):
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, sliding_window=window)
    return sharpened(MistralForCausalLM(config).eval())


def test_shared_prefixes_are_used_up_to_the_window_and_the_cache_beyond_it():
    model = windowed(window=24)
    rows = Rows([torch.arange(1, 20)], [0, 0], [19, 19], [4, 4])
    assert rows.reach == 24 and isinstance(make_decoder(model, rows), PrefixDecoder)
    assert isinstance(make_decoder(model, replace(rows, limits=[4, 5])), CacheDecoder)
    assert shared_prefix_refusal(model, 25) == "layer 0 sees 24 of 25 tokens (a window)"
    assert shared_prefix_refusal(make("llama-gqa"), 100_000) is None


def test_autocast_which_rounds_refuses_no_decoder():
    """What a trainer generates with on a GPU: float32 weights, computed with in bfloat16."""
    model = make("llama-gqa")
    rows = Rows([torch.arange(1, 20)], [0, 0], [19, 9], [4, 4])
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(make_decoder(model, rows), PrefixDecoder)


def test_a_sliding_window_is_respected():
    model, batch = windowed(), prompts(np.random.default_rng(5))
    ours = HFGenerator(model, Letters()).generate(batch, SamplingConfig(max_new_tokens=40, temperature=0))
    for prompt, completion in zip(batch, ours, strict=True):
        assert completion.token_ids == greedy(model, prompt, 40)


def test_samples_through_the_cache_do_not_depend_on_their_neighbours():
    model, batch = windowed(), prompts(np.random.default_rng(6))
    generator, sampling = HFGenerator(model, Letters()), SamplingConfig(max_new_tokens=24, samples=2, seed=5)
    together = generator.generate(batch, sampling)
    alone = [completion for prompt in batch for completion in generator.generate([prompt], sampling)]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert together[0].token_ids != together[1].token_ids


def test_both_decoders_draw_the_same_samples(monkeypatch):
    model, batch = make("llama-gqa"), prompts(np.random.default_rng(7))
    sampling = SamplingConfig(max_new_tokens=24, samples=3, seed=5)
    shared = HFGenerator(model, Letters()).generate(batch, sampling)
    monkeypatch.setattr("attention_rhythm.generation.choice.shared_prefix_refusal", lambda *_: "a test")
    cached = HFGenerator(model, Letters()).generate(batch, sampling)
    assert [c.token_ids for c in cached] == [c.token_ids for c in shared]
    for one, other in zip(cached, shared, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)


def test_rows_that_branch_from_one_prefix_go_through_the_cache_as_well():
    model, text = windowed(), np.random.default_rng(4).integers(1, 90, size=40).tolist()
    visible, first, limits = [10, 24, 39, 0], [5, 6, 7, 8], [30, 3, 17, 30]
    tokens, _ = continue_rows(
        model, [text], [0] * 4, visible, first, limits, {96}, lambda logits, rows, step: logits.argmax(-1)
    )
    assert tokens == [
        greedy(model, [*text[:seen], token], limit)
        for seen, token, limit in zip(visible, first, limits, strict=True)
    ]  # fmt: skip


def long_rope():
    """Frequencies of rotary positions are others beyond 16 tokens."""
    torch.manual_seed(0)
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_type": "longrope", "rope_theta": 10000.0}
    config = Phi3Config(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, rope_parameters=factors,
        original_max_position_embeddings=16,
    )  # fmt: skip
    return sharpened(Phi3ForCausalLM(config).eval())


def test_rows_on_either_side_of_a_change_of_frequencies_share_no_batch():
    model, batch = long_rope(), [[5] * 4, list(range(1, 31)), [7] * 10, list(range(2, 40))]
    sampling = SamplingConfig(max_new_tokens=6, temperature=0, ignore_eos=True)
    together = HFGenerator(model, Letters()).generate(batch, sampling)
    off = distance(model, batch, together)
    assert off.logprob < 1e-4 and off.best < 1e-4
    alone = [HFGenerator(model, Letters()).generate([prompt], sampling)[0] for prompt in batch]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_a_row_that_would_cross_the_change_is_refused():
    message = "phi3 has longrope positions, whose frequencies change behind token 16: a prompt of 4 and 13 new tokens"
    with pytest.raises(UnsupportedAttention, match=message):
        HFGenerator(long_rope(), Letters()).generate([[5] * 4], SamplingConfig(max_new_tokens=13))
    assert HFGenerator(long_rope(), Letters()).generate([[5] * 4], SamplingConfig(max_new_tokens=12))


# --- what a generation config asks for --------------------------------------------------------------------------------


def test_a_repetition_penalty_by_hand():
    """Tokens 0 and 2 were there: a positive logit is divided by the penalty, a negative one multiplied."""
    repetition = Repetition([[0, 2], [1]], 2.0)
    logits = torch.tensor([[4.0, 3.0, -1.0], [4.0, 3.0, -1.0]])
    assert repetition(logits, torch.tensor([0, 1])).tolist() == [[2.0, 3.0, -2.0], [4.0, 1.5, -1.0]]
    repetition.add(torch.tensor([1]), torch.tensor([0]))
    assert repetition(logits[1:], torch.tensor([1])).tolist() == [[2.0, 1.5, -1.0]]


@pytest.mark.parametrize("build", [lambda: make("qwen3"), windowed])
def test_a_repetition_penalty_is_obeyed_as_generate_does(build):
    model, batch = build(), prompts(np.random.default_rng(8))
    plain = HFGenerator(model, Letters()).generate(batch, SamplingConfig(max_new_tokens=30, temperature=0))
    model.generation_config.repetition_penalty = 1.3
    ours = HFGenerator(model, Letters()).generate(batch, SamplingConfig(max_new_tokens=30, temperature=0))
    assert [c.token_ids for c in ours] == [greedy(model, prompt, 30) for prompt in batch]
    assert [c.token_ids for c in ours] != [c.token_ids for c in plain]
    assert distance(model, batch, ours).logprob < 1e-4  # log-probabilities are the model's own


@pytest.mark.parametrize(
    "setting", [{"no_repeat_ngram_size": 3}, {"min_new_tokens": 5}, {"suppress_tokens": [3]}, {"num_beams": 4}]
)
def test_what_is_not_applied_is_refused_by_its_name(setting):
    model = make("qwen3")
    ((name, value),) = setting.items()
    setattr(model.generation_config, name, value)
    with pytest.raises(GenerationError, match=f"sets {name}=.*generation_config.json"):
        HFGenerator(model, Letters())


def test_how_tokens_are_drawn_is_said_by_the_sampling_config_alone():
    model, sampling = make("qwen3"), SamplingConfig(max_new_tokens=10, seed=1)
    plain = HFGenerator(model, Letters()).generate([[1, 2, 3]], sampling)
    model.generation_config.update(temperature=0.1, top_p=0.2, top_k=1, do_sample=True)
    assert HFGenerator(model, Letters()).generate([[1, 2, 3]], sampling) == plain


# --- what is no batch, or no model ------------------------------------------------------------------------------------


def test_what_cannot_be_generated_is_said_in_a_sentence():
    generator = HFGenerator(make("qwen3"), Letters())
    assert generator.generate([], SamplingConfig()) == []
    with pytest.raises(GenerationError, match="prompt 1 has no tokens"):
        generator.generate([[1], []], SamplingConfig(max_new_tokens=2))
    with pytest.raises(
        GenerationError, match="250 tokens and 10 new ones do not fit the context of 256: lower max_new"
    ):
        generator.generate([[1] * 250], SamplingConfig(max_new_tokens=10))
    assert len(generator.generate([[1] * 250], SamplingConfig(6, temperature=0, ignore_eos=True))[0].token_ids) == 6


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (torch.nn.DataParallel, "DataParallel wraps the model: hand over model.module"),
        (lambda model: model.to("meta"), "meta device, without weights"),
        (lambda model: torch.nn.Linear(2, 2), "Linear is not a model of transformers"),
    ],
)
def test_what_is_no_model_is_said_in_a_sentence(wrap, says):
    with pytest.raises(UnsupportedAttention, match=says):
        HFGenerator(wrap(make("qwen3")), Letters())
