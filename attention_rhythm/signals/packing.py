"""Attention over packed sequences: one row of several sequences end to end, as trainers without padding have it.

A causal attention function over right-padded rows keeps sequences apart by itself. `packed` unpacks what it is given,
calls that function, and packs the result: what reads the attention of padded rows reads that of packed ones unchanged.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.attention import AttentionFunction


def right_padded(lengths: Int[Tensor, "B"]) -> Bool[Tensor, "B N"]:
    """True on the tokens of sequences of these lengths, in rows as long as the longest."""
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


def packed(function: AttentionFunction, lengths: Int[Tensor, "B"]) -> AttentionFunction:
    """`function`, an attention over (B, H, N, D), as one over (1, H, M, D): the sequences end to end.

    What follows the last sequence (M may exceed the sum of `lengths`) is padding: its output is 0.

    UnsupportedAttention: chunks or a bias, which transformers counts from the beginning of the packed row.
    """
    rows = right_padded(lengths)  # (B, N)
    used = int(lengths.sum())

    def unpack(x: Float[Tensor, "1 H M D"]) -> Float[Tensor, "B H N D"]:
        _, heads, _, size = x.shape
        padded = x.new_zeros(*rows.shape, heads, size)  # (B, N, H, D)
        padded[rows] = x[0, :, :used].transpose(0, 1)
        return padded.transpose(1, 2)

    def attend(module, query, key, value, attention):
        if attention.chunk is not None or attention.bias is not None:
            raise UnsupportedAttention(f"packed sequences with {attention.more_than_plain()}: pad them instead")
        alone = replace(attention, packed=False)
        out = function(module, *(unpack(x) for x in (query, key, value)), alone)  # (B, H, N, D)
        packed_out = out.new_zeros(query.shape[2], *out.shape[1::2])  # (M, H, D)
        packed_out[:used] = out.transpose(1, 2)[rows]
        return packed_out.transpose(0, 1)[None]

    return attend
