"""Tiny models with random weights, one of each supported shape, and batches for them."""

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

SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=6, max_position_embeddings=4096)
HEADS = {"mha": (4, 4), "gqa": (4, 2), "mqa": (4, 1)}
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
}


def build(kind, sharing="gqa", **options):
    """A tiny model; its weights are scaled up, so that attention is far from uniform and positions matter."""
    config, model, extra = KINDS[kind]
    heads, kv_heads = HEADS[sharing]
    torch.manual_seed(3)
    network = model(config(**{**SIZES, **extra, **options}, num_attention_heads=heads, num_key_value_heads=kv_heads))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(8)
    return network.eval()


@pytest.fixture(scope="session")
def tiny():
    """`tiny("qwen2", "mqa")`: the model of that kind, made once."""
    made = {}

    def get(kind, sharing="gqa"):
        if (kind, sharing) not in made:
            made[kind, sharing] = build(kind, sharing)
        return made[kind, sharing]

    return get


@pytest.fixture
def new_model():
    """`new_model("llama", num_hidden_layers=2)`: a fresh one, to be changed by its test."""
    return build


def make_batch(lengths, side="right", seed=0):
    """(ids, attention mask, response mask) of sequences given as (prompt tokens, response tokens)."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(p + r for p, r in lengths)
    ids = torch.randint(1, 61, (len(lengths), longest), generator=generator)
    attention = torch.zeros(len(lengths), longest, dtype=torch.bool)
    response = attention.clone()
    for b, (prompt, answer) in enumerate(lengths):
        start = longest - prompt - answer if side == "left" else 0
        attention[b, start : start + prompt + answer] = True
        response[b, start + prompt : start + prompt + answer] = True
    return ids, attention, response


@pytest.fixture(scope="session")
def batch():
    return make_batch
