"""The separate pass over a long sequence, layer by layer in pieces of rows: memory of a hidden state and little more.

A layer of a transformer looks at other tokens in its attention alone, and only at those before. So its rows can be
computed a piece at a time, from the first to the last, when the keys and values of the pieces before are kept. What a
layer holds of each token while it is at work (normalised hidden states, queries, their rotation, the three arrays of
its MLP) then exists for one piece only, and its output takes the place of its input. What is left of each token: the
hidden state, the keys and values of one layer, the rotary tables, and the statistics of the layers that are read.

The attention of a piece is the causal one to its own keys and the whole one to the keys before, joined by their
log-sum-exps, as in flash attention. In a layer that is read it is made of tiles, over blocks of keys that are joined
in the same way: a tile that reached to the first key would take hundreds of numbers for each token before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import UnsupportedAttention, backbone
from attention_rhythm.signals.attention import Attention, attention_of_layers
from attention_rhythm.signals.streaming import (
    LastLayerRead,
    SignalRecorder,
    band_tiles,
    mean_received,
    tiled_attention,
)

ROWS = 1024  # of a piece: the fused kernel of a CPU is as fast from 768 on
_KEYS = 4 * ROWS  # that a layer which is read is handed at once, of those before the piece

# Types whose layers are known to look at other tokens in their attention alone, and to be handed nothing that belongs
# to a token but hidden states, `position_embeddings` and `position_ids`.
TYPES = frozenset({
    "cohere", "gemma", "glm", "glm4", "granite", "llama", "ministral", "mistral", "mixtral", "olmo", "olmo2", "olmo3",
    "phi", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip


def known(model: PreTrainedModel, length: int) -> bool:
    """Whether sequences of this many tokens are read in pieces: long ones, on a CPU, under plain attention."""
    if length <= ROWS or model.device.type != "cpu" or model.config.model_type not in TYPES:
        return False
    return all(attention.within(length).plain for _, attention in attention_of_layers(model))


@contextmanager
def layers_in_pieces(model: PreTrainedModel) -> Iterator[None]:
    """The layers of a model of a known type take ROWS rows at once, and put their output in the place of their input.

    A layer that `LastLayerRead` ends is ended after its last piece.
    """

    def in_pieces(
        whole: Any,
        hidden: Float[Tensor, "B N D"],
        *,
        position_embeddings: tuple[Float[Tensor, "b N d"], Float[Tensor, "b N d"]],
        position_ids: Tensor,  # (b, N)
        **named: Any,
    ) -> Float[Tensor, "B N D"]:
        ended = False
        for start in range(0, hidden.shape[1], ROWS):
            piece = slice(start, start + ROWS)
            rotary = tuple(table[:, piece] for table in position_embeddings)
            try:
                hidden[:, piece] = whole(
                    hidden[:, piece], position_embeddings=rotary, position_ids=position_ids[:, piece], **named
                )
            except LastLayerRead:
                ended = True
        if ended:
            raise LastLayerRead
        return hidden

    layers: Any = backbone(model).layers
    own = [vars(layer).get("forward") for layer in layers]  # what a library has put in the place of the class's method
    for layer in layers:
        layer.forward = partial(in_pieces, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


@contextmanager
def mlps_in_pieces(model: torch.nn.Module, rows: int = 1024) -> Iterator[None]:
    """The gated MLPs of a model take at most `rows` positions at once.

    Their three arrays (N, intermediate size) are what a long pass without logits holds most of.
    """

    # experts that are shared get all positions of a batch as one axis
    def in_pieces(
        whole: Callable[..., Tensor], hidden: Float[Tensor, "*B N D"], *more: Any, **named: Any
    ) -> Float[Tensor, "*B N D"]:
        if more or named:  # what else an MLP takes may have one entry for each position
            return whole(hidden, *more, **named)
        if hidden.shape[-2] <= rows:
            return whole(hidden)
        out = torch.empty_like(hidden)
        for start in range(0, hidden.shape[-2], rows):
            out[..., start : start + rows, :] = whole(hidden[..., start : start + rows, :])
        return out

    mlps = [module for module in model.modules() if hasattr(module, "gate_proj") and hasattr(module, "down_proj")]
    own = [vars(mlp).get("forward") for mlp in mlps]  # what a library has put in the place of the method of the class
    for mlp in mlps:
        mlp.forward = partial(in_pieces, mlp.forward)
    try:
        yield
    finally:
        for mlp, forward in zip(mlps, own, strict=True):
            del mlp.forward
            if forward is not None:
                mlp.forward = forward


def flash(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    scale: float,
    causal: bool,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """Attention of the fused kernel of a CPU (in the unit of the values), and each row's log-sum-exp (nats).

    causal: query t sees the keys up to t (T = S); else every query sees every key.
    """
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=None, scale=scale
    )


Parts = tuple[Float[Tensor, "B H T"], list[Tensor]]  # log-sum-exp (nats), and what is averaged under it


def joined(one: Parts, other: Parts) -> Parts:
    """Averages under two sets of keys as those under both, in the place of the first."""
    lse = torch.logaddexp(one[0], other[0])
    shares = [torch.exp(part[0] - lse) for part in (one, other)]  # (B, H, T): of the mass

    def mean(a: Tensor, b: Tensor) -> Tensor:
        mine, its = (share.view(*share.shape, *(1,) * (a.ndim - 3)) for share in shares)
        return a.mul_(mine).add_(b.mul_(its))

    return lse, [mean(a, b) for a, b in zip(one[1], other[1], strict=True)]


class PieceRecorder(SignalRecorder):
    """A `SignalRecorder` of layers that come in pieces, in their order.

    UnsupportedAttention: a layer that attends more than once.
    """

    _layer = -1  # at work; -1: none yet
    _end = 0  # tokens of it that have come
    _key: Float[Tensor, "B G N D"]
    _value: Float[Tensor, "B G N D"]

    def __call__(self, module, query, key, value, attention):
        self._total = self._total + query.sum(dtype=torch.float32) + key.sum(dtype=torch.float32)
        start, end = self._keep(module.layer_idx, key, value)
        keys, values = self._key[:, :, :end], self._value[:, :, :end]
        if module.layer_idx not in self.layers:
            return self._output(query, keys, values, start, attention.scale)
        with torch.autocast(query.device.type, enabled=False):
            out = self._read_rows(query.float(), keys, values, start, attention)
        if self.early_exit and module.layer_idx == self.layers[-1]:
            raise LastLayerRead
        return out.to(value.dtype)

    def _keep(self, layer: int, key: Tensor, value: Tensor) -> tuple[int, int]:
        """Put a piece behind those of its layer that have come; where it begins and ends."""
        length = self.response.shape[1]
        if self._layer < 0:  # one room for the keys of all layers, one after the other
            self._key, self._value = (x.new_empty(*x.shape[:2], length, x.shape[3]) for x in (key, value))
        if layer != self._layer:
            self._layer, self._end = layer, 0
        start, self._end = self._end, self._end + key.shape[2]
        if self._end > length:
            raise UnsupportedAttention(f"layer {layer} attends more than once")
        self._key[:, :, start : self._end], self._value[:, :, start : self._end] = key, value
        return start, self._end

    def _output(self, query: Tensor, key: Tensor, value: Tensor, start: int, scale: float) -> Tensor:
        """Attention output (B, H, T, D) of the rows from `start` on, in the format of `value`."""
        out, lse = flash(query, key[:, :, start:], value[:, :, start:], scale, True)
        if start:
            past, before = flash(query, key[:, :, :start], value[:, :, :start], scale, False)
            _, (out,) = joined((lse, [out]), (before, [past]))
        return out.to(value.dtype)

    def _read_rows(self, query: Tensor, key: Tensor, value: Tensor, start: int, attention: Attention) -> Tensor:
        """The same, float32, in a layer whose statistics are kept."""

        def part(s0: int, s1: int) -> Parts:
            k, v = (x[:, :, s0:s1].float() for x in (key, value))
            out, lse, distance = tiled_attention(query, k, v, attention, before=start - s0)
            return lse, [out, distance]

        found = part(start, key.shape[2])
        for s0 in range(0, start, _KEYS):
            found = joined(found, part(s0, min(s0 + _KEYS, start)))
        lse, (out, distance) = found
        self._add(query, key, lse, distance, start, attention)
        return out

    def _add(self, query: Tensor, key: Tensor, lse: Tensor, distance: Tensor, start: int, attention: Attention) -> None:
        """Put the statistics of the rows from `start` on to those of the rows before."""
        length, end = self.response.shape[1], key.shape[2]
        if start == 0:
            heads = query.new_zeros(query.shape[:2])
            rows = query.new_full((*query.shape[:2], length), float("nan"))
            self._read[self._layer] = (heads, rows, [torch.zeros_like(rows) for _ in self.horizons])
        span, waad, received = self._read[self._layer]
        response = self.response[:, None]
        span += torch.where(response[..., start:end], distance, 0).sum(-1) / response.sum(-1)
        band = band_tiles(query, key, lse, attention, self.response, self.window, self.horizons)
        waad[:, :, start:end] = band[0]
        for total, new in zip(received, band[1], strict=True):
            total[:, :, :end] += new
        if end == length:
            fai = [mean_received(x, self.response, h) for x, h in zip(received, self.horizons, strict=True)]
            self._read[self._layer] = (span, waad, fai)
