"""Replacing the attention of a model by a function that knows plain causal softmax attention only.

The decoder that shares prefixes computes `softmax(scale * q k^T) v` and nothing else. A model that does more is refused
here by name, from the same description that the signals are read by.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.attention import Attention, described_attention

PlainAttention = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]

__all__ = ["PlainAttention", "UnsupportedAttention", "replaced_attention"]


def replaced_attention(model: PreTrainedModel, function: PlainAttention) -> AbstractContextManager[None]:
    """Run every attention layer of `model` through `function(module, query, key, value, scale)` inside the block.

    Shapes: query (B, H, T, D), key and value (B, H_kv, T, D), result (B, H, T, D). `function` sees no mask: it applies
    the causal one itself. Sequences are to be padded on the right, where a causal query never looks. A window or chunk
    of at least T tokens changes nothing here: who hands over a few tokens of longer sequences has to know of it.

    UnsupportedAttention: inside the block, at the first layer whose attention is more than plain.
    """

    def plain(module, query, key, value, attention: Attention):
        attention = attention.within(query.shape[2])
        if not attention.plain:
            more = attention.more_than_plain()
            raise UnsupportedAttention(f"{type(module).__name__} has {more}: not plain attention")
        return function(module, query, key, value, attention.scale)

    return described_attention(model, plain)
