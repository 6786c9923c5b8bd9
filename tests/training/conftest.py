"""Tiny models with random weights and a tokenizer that is enough for a generator."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

SIZES = dict(vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=3, max_position_embeddings=256)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2)
KINDS = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
}


class Letters:
    """Token ids as words."""

    eos_token_id = 30
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i == self.eos_token_id))


def build(kind="qwen3", seed=0):
    """A tiny model; its queries and keys are scaled up, so that attention is far from uniform."""
    network, config, extra = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(config(**SIZES, **HEADS, **extra))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(8)
    model.generation_config.eos_token_id = Letters.eos_token_id
    return model.eval()


@pytest.fixture
def new_model():
    """`new_model("llama", seed=1)`: a fresh one, to be trained by its test."""
    return build


@pytest.fixture(scope="session")
def letters():
    return Letters()
