"""Tiny models with random weights, one of each supported shape, their tokenizers, and batches for them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HEADS = {"mha": (4, 4), "gqa": (4, 2), "mqa": (4, 1)}
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
}
SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=6, max_position_embeddings=4096)
TRAINED = {"vocab_size": 31, "num_hidden_layers": 3, "max_position_embeddings": 256}  # small enough to be trained
TIED = {"qwen3": True, "llama": False}


def build(kind: str, sharing: str = "gqa", seed: int = 3, **options):
    """A tiny model; queries and keys are scaled up, so that attention is far from uniform and positions matter."""
    config, model, extra = KINDS[kind]
    heads, kv_heads = HEADS[sharing]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model(
            config(**{**SIZES, **extra, **options}, num_attention_heads=heads, num_key_value_heads=kv_heads)
        )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(8)
    return network.eval()


class Letters:
    """A tokenizer that is enough for a generator: token ids as words."""

    eos_token_id = 30
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i == self.eos_token_id))


def build_trained(kind: str = "qwen3", seed: int = 0):
    """A smaller one, to be trained, that ends its responses with the end of `Letters`."""
    model = build(kind, seed=seed, **TRAINED, tie_word_embeddings=TIED[kind])
    model.generation_config.eos_token_id = Letters.eos_token_id
    return model


def save_with_tokenizer(folder: Path) -> None:
    """A tiny Qwen3 and a tokenizer of one token a character, as `from_pretrained` loads them."""
    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(["<eos>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        **{**SIZES, "vocab_size": len(vocabulary), "max_position_embeddings": 2048}, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)


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
