"""Weights between Hugging Face's names and the shards of Megatron-core: bit for bit, both ways. No import of Megatron.

Megatron keeps q, k and v of a group of heads side by side in one matrix, gate and up of the MLP in another, and cuts
each over the tensor-parallel ranks along `Place.dim`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a parameter of Megatron comes from."""

    names: tuple[str, ...]  # in the Hugging Face model
    kind: str  # whole | qkv | gated
    dim: int | None  # that tensor parallelism cuts; None: every rank has all of it


@dataclass(frozen=True)
class Heads:
    """Sizes that decide how q, k and v are interleaved."""

    heads: int
    groups: int  # heads of keys and values
    size: int  # of a head


_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_OUTSIDE = {
    "embedding.word_embeddings.weight": Place(("model.embed_tokens.weight",), "whole", 0),
    "output_layer.weight": Place(("lm_head.weight",), "whole", 0),
    "decoder.final_layernorm.weight": Place(("model.norm.weight",), "whole", None),
}
_INSIDE = {
    "input_layernorm.weight": (("input_layernorm.weight",), "whole", None),
    "pre_mlp_layernorm.weight": (("post_attention_layernorm.weight",), "whole", None),
    "self_attention.q_layernorm.weight": (("self_attn.q_norm.weight",), "whole", None),
    "self_attention.k_layernorm.weight": (("self_attn.k_norm.weight",), "whole", None),
    "self_attention.linear_qkv.weight": (tuple(f"self_attn.{x}_proj.weight" for x in "qkv"), "qkv", 0),
    "self_attention.linear_qkv.bias": (tuple(f"self_attn.{x}_proj.bias" for x in "qkv"), "qkv", 0),
    "self_attention.linear_proj.weight": (("self_attn.o_proj.weight",), "whole", 1),
    "mlp.linear_fc1.weight": (("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gated", 0),
    "mlp.linear_fc2.weight": (("mlp.down_proj.weight",), "whole", 1),
}


def place(name: str, first_layer: int, *, tied: bool) -> Place:
    """The place of Megatron's parameter `name`.

    Args:
        first_layer: index in the whole model of this pipeline stage's layer 0.
        tied: the head is the embedding; the last of several stages has a copy of it.

    Raises:
        KeyError: a name that Llama, Qwen2 and Qwen3 do not have.
    """
    if layer := _LAYER.fullmatch(name):
        names, kind, dim = _INSIDE[layer[2]]
        prefix = f"model.layers.{first_layer + int(layer[1])}."
        return Place(tuple(prefix + n for n in names), kind, dim)
    return _OUTSIDE["embedding.word_embeddings.weight" if tied and name == "output_layer.weight" else name]


def shard(place: Place, tensors: Mapping[str, Tensor], heads: Heads, rank: int, size: int) -> Tensor:
    """The part of tensor-parallel rank `rank` of `size`, of tensors under the names of Hugging Face."""
    parts = [tensors[name] for name in place.names]
    if place.kind == "qkv":
        per_group = (heads.heads // heads.groups * heads.size, heads.size, heads.size)
        rest = parts[0].shape[1:]  # (D,) of a weight, () of a bias
        grouped = [x.reshape(heads.groups, rows, *rest) for x, rows in zip(parts, per_group, strict=True)]
        return torch.cat(grouped, 1).reshape(-1, *rest).chunk(size)[rank]
    if place.dim is None:
        return parts[0]
    return torch.cat([x.chunk(size, place.dim)[rank] for x in parts], place.dim)


def unshard(place: Place, shards: list[Tensor], heads: Heads) -> dict[str, Tensor]:
    """The inverse of `shard`: the shards of all tensor-parallel ranks, in order, under Hugging Face names."""
    if place.dim is None:
        return {place.names[0]: shards[0]}
    if place.kind == "gated":
        halves = [part.chunk(2) for part in shards]
        return {name: torch.cat([half[i] for half in halves]) for i, name in enumerate(place.names)}
    whole = torch.cat(shards, place.dim)
    if place.kind == "whole":
        return {place.names[0]: whole}
    per_group = [heads.heads // heads.groups * heads.size, heads.size, heads.size]
    parts = whole.reshape(heads.groups, sum(per_group), *whole.shape[1:]).split(per_group, 1)
    return {name: part.reshape(-1, *whole.shape[1:]) for name, part in zip(place.names, parts, strict=True)}
