"""A batch as one row that holds each of its tokens once: what a layer does to a token alone is done without padding.

Only attention sees sequences. For it queries, keys and values are put into padded rows, in groups of like length, and
what it gives is put back; projections, MLPs and norms, which are most of a short pass, get every token once. Sequences
that begin alike, as the samples of one prompt do, share the tokens that they have in common: a causal model makes the
same of them.

A model is read so if a few tokens show that it changes nothing, and if what they cannot show is known: its attention at
any length (`attention`), and that no layer counts the tokens of a row by itself. All others, and batches where little
would be saved, are read in padded rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    backbone,
    exclusive,
    fresh_positions,
    hidden_states,
    length_matters,
    rounding,
    text_config,
)
from attention_rhythm.signals.attention import STUMBLES, AttentionFunction, attention_of_layers, described_attention
from attention_rhythm.signals.streaming import attention_output

_ROWS = 32  # sequences that attention gets at once: of like length, so that little of it is padding
_STEP = 256  # the number of tokens is a multiple of it: libraries prepare a product anew for each new size
_SAVED = 0.9  # a batch is read as one row that has at most this share of the positions of padded rows


@dataclass(frozen=True, eq=False)
class Group:
    """Sequences of like length."""

    rows: Int[Tensor, "b"]  # which of the B sequences
    width: int  # tokens of the longest, n
    place: Int[Tensor, "b n"]  # where each of their tokens stands among the M; padding points anywhere


@dataclass(frozen=True, eq=False)
class Compact:
    """B right-padded sequences as M tokens in one row."""

    ids: Int[Tensor, "1 M"]
    positions: Int[Tensor, "1 M"]
    place: Int[Tensor, "B N"]  # where each token of each sequence stands among the M; padding points anywhere
    groups: tuple[Group, ...]
    source: Int[Tensor, "M"]  # where each of the M tokens stands in the groups, laid end to end


def compact(ids: Int[Tensor, "B N"], lengths: Int[Tensor, "B"]) -> Compact:
    """Right-padded sequences of these lengths, at least 1, in one row; equal beginnings stand there once."""
    batch, width = ids.shape
    listed, size = ids.tolist(), lengths.tolist()
    order = sorted(range(batch), key=lambda row: listed[row][: size[row]])
    rows = torch.tensor(order, device=ids.device)
    ordered, length = ids[rows], lengths[rows]  # sequences that begin alike are neighbours
    position = torch.arange(width, device=ids.device)
    equal = (ordered[1:] == ordered[:-1]).cumprod(1).sum(1)  # (B - 1,)
    shared = F.pad(equal.minimum(length[1:]).minimum(length[:-1]), (1, 0))  # (B,): tokens shared with the one before
    new = (position >= shared[:, None]) & (position < length[:, None])  # (B, N)
    number = new.flatten().cumsum(0).view_as(new) - 1  # (B, N): which of the tokens, where it is new
    owner = torch.where(new, torch.arange(batch, device=ids.device)[:, None], 0).cummax(0).values  # (B, N)
    place = torch.empty_like(ids)
    place[rows] = number.gather(0, owner).clamp(min=0)

    tokens = int(new.sum())
    filling = -tokens % _STEP
    groups = []
    for own in lengths.argsort(stable=True).split(_ROWS):
        widest = int(lengths[own].max())
        groups.append(Group(own, widest, place[own, :widest]))
    ends = torch.cat([(position[: g.width] < lengths[g.rows, None]).flatten() for g in groups])  # (sum b n,)
    everywhere = torch.cat([g.place.flatten() for g in groups])  # (sum b n,)
    source = torch.zeros(tokens + filling, dtype=torch.long, device=ids.device)
    source[everywhere[ends]] = ends.nonzero()[:, 0]
    return Compact(
        F.pad(ordered[new], (0, filling), value=int(ordered[0, 0]))[None],
        F.pad(position.expand_as(new)[new], (0, filling))[None],
        place,
        tuple(groups),
        source,
    )


def compact_batch(
    model: PreTrainedModel, ids: Int[Tensor, "B N"], lengths: Int[Tensor, "B"], *, plain: bool = False
) -> Compact | None:
    """The batch in one row; None where that would save little, or the model cannot be read so.

    plain: only where its attention is plain at this length, as `attention_output` can be differentiated.
    """
    if ids.numel() <= _STEP or not can_be_compact(model):
        return None
    if plain and not all(attention.within(ids.shape[1]).plain for _, attention in attention_of_layers(model)):
        return None
    batch = compact(ids, lengths)
    return batch if batch.ids.numel() <= _SAVED * ids.numel() else None


def compact_hidden_states(
    model: PreTrainedModel, batch: Compact, attend: Sequence[AttentionFunction] | None = None
) -> Float[Tensor, "B N D"]:
    """What the decoder hands to the output head, of padded sequences; at padding it is anything. In no unit.

    Differentiable as far as `attend` is: an attention function for each group; None: the layers' own attention.
    """
    attend = [_own_attention] * len(batch.groups) if attend is None else attend
    with described_attention(model, _in_groups(batch, attend)):
        hidden = hidden_states(model, batch.ids, batch.positions)  # (1, M, D)
    return F.embedding(batch.place, hidden[0])


def _own_attention(_: nn.Module, *qkv_and_attention: Any) -> Tensor:
    """The attention function that does what the layer itself does."""
    return attention_output(*qkv_and_attention)


def _in_groups(batch: Compact, attend: Sequence[AttentionFunction]) -> AttentionFunction:
    """The attention function of the row, made of those of its groups."""

    def attention_of_row(module, query, key, value, attention):
        attention = replace(attention, packed=False)  # told from the positions; here the groups say it
        parts = [x[0].transpose(0, 1) for x in (query, key, value)]  # (M, H, D), (M, G, D), (M, G, Dv)
        outputs = []
        for group, function in zip(batch.groups, attend, strict=True):
            rows = [
                F.embedding(group.place, x.flatten(1)).unflatten(-1, x.shape[1:]).transpose(1, 2) for x in parts
            ]  # (b, H, n, D), (b, G, n, D), (b, G, n, Dv)
            out = function(module, *rows, attention)  # (b, H, n, Dv)
            outputs.append(out.transpose(1, 2).flatten(0, 1).flatten(1))  # (b n, H Dv)
        row = F.embedding(batch.source, torch.cat(outputs))  # (M, H Dv)
        return row.unflatten(-1, (query.shape[1], -1)).transpose(0, 1)[None]  # (1, H, M, Dv)

    return attention_of_row


# --------------------------------------------------------------------------------------- which models

_shown: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def can_be_compact(model: PreTrainedModel) -> bool:
    """Whether a batch may be read as one row; asked once for each model."""
    if model not in _shown:
        _shown[model] = _is_known(model) and _few_tokens_agree(model)
    return _shown[model]


def _is_known(model: PreTrainedModel) -> bool:
    """Whether what a few tokens cannot show is known of the model."""
    decoder = backbone(model)
    if length_matters(model) or "position_ids" not in inspect.signature(decoder.forward).parameters:
        return False
    if any(_counts_tokens(module) for module in decoder.modules() if module is not decoder):
        return False
    try:
        return all(attention.bias is None for _, attention in attention_of_layers(model))
    except UnsupportedAttention:
        return False


def _counts_tokens(module: nn.Module) -> bool:
    """Whether the module may number the tokens of a row by itself, rather than by their positions."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is None or bool({"arange", "cumsum"} & set(code.co_names))


@torch.no_grad()
def _few_tokens_agree(model: PreTrainedModel) -> bool:
    """Whether hidden states of three sequences, two of which begin alike, are the same in one row."""
    first = text_config(model).vocab_size // 2
    ids = first + torch.tensor([[0, 1, 2, 3, 4], [0, 1, 5, 0, 0], [6, 1, 2, 0, 0]], device=model.device)
    lengths = torch.tensor([5, 3, 2], device=model.device)
    batch = compact(ids, lengths)
    try:
        with exclusive(model), fresh_positions(model):
            padded = hidden_states(model, ids).float()
            in_row = compact_hidden_states(model, batch).float()
    except torch.OutOfMemoryError:
        raise
    except STUMBLES:
        return False
    own = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return bool((padded - in_row)[own].abs().max() <= rounding(model) * padded[own].abs().max())
