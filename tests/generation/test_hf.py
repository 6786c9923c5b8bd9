"""The prefix-sharing decoder against transformers' own `generate`, and what sampling promises."""

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from attention_rhythm.generation.base import GenerationError, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator, continue_rows, draw, uniform_draws

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


def greedy(model, prompt, tokens):
    """What transformers' own `generate` writes after the prompt."""
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    whole = model.generate(
        torch.tensor([prompt]), attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return whole[0, len(prompt) :].tolist()


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


def test_sampling_follows_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    u = torch.linspace(0, 1, 10_001)[:-1]
    drawn = draw(logits.expand(len(u), -1), 0.5, u)
    share = torch.bincount(drawn, minlength=4) / len(u)
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(-1), atol=2e-4, rtol=0)
    assert uniform_draws([1, 2], 0, 0, 5).tolist() == uniform_draws([1, 2], 0, 0, 50)[:5].tolist()


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


def test_nan_in_the_logits_is_refused():
    model = make("qwen3")
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    with pytest.raises(GenerationError, match="NaN"):
        HFGenerator(model, Letters()).generate([[1, 2]], SamplingConfig(max_new_tokens=2))


def windowed(window=8):
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, sliding_window=window)
    return sharpened(MistralForCausalLM(config).eval())


def test_a_sliding_window_is_respected():
    """Once a row is longer than the window, the model's own cache decodes it: tokens as `generate`'s."""
    model, batch = windowed(), prompts(np.random.default_rng(5))
    ours = HFGenerator(model, Letters()).generate(batch, SamplingConfig(max_new_tokens=40, temperature=0))
    for prompt, completion in zip(batch, ours, strict=True):
        assert completion.token_ids == greedy(model, prompt, 40)
