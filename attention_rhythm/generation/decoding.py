"""Decoding many continuations of few prefixes.

A *prefix* is a token sequence that the rows of a group share: the prompt of sixteen samples, or a whole response of
which each row re-uses the first p tokens (`visible`) before it goes its own way, as the perturbation study of Sec. 4.3
does. Rows that have finished leave the batch. Of two decoders, `choice` takes the first that is proven equal to full
forward passes of the model:

- `PrefixDecoder` computes and stores each prefix once. Per layer the queries of one group meet the group's keys in one
  matrix product; there is no padding on the left and no mask of size (T, T). It knows plain softmax attention only.
- `CacheDecoder` goes through the model's own cache of transformers, whatever its layers are.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn import functional as F
from transformers import Cache, EncoderDecoderCache, PreTrainedModel, cache_utils

from attention_rhythm.generation import proof
from attention_rhythm.generation.base import BrokenLogits
from attention_rhythm.signals.architecture import UnsupportedAttention, attention_modules
from attention_rhythm.signals.attention import Attention, described_attention

_BLOCK = 64  # tokens
# Layers of a cache that keep what a layer has computed, all of it or a window's. Others choose or compress tokens from
# some length on: what a few tokens show proves nothing for them.
_KNOWN_LAYERS = {
    "DynamicLayer", "DynamicSlidingWindowLayer", "LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
}  # fmt: skip


class Decoder(Protocol):
    """Decodes B rows, token by token."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Feed one token to each row, (B,), and return the logits of the next one, (B, V), float32.

        BrokenLogits: NaN or inf in them.
        """
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only, (rows,) indices."""
        ...


class PrefixDecoder:
    """Decodes B rows, each the continuation of one of G prefixes, which are stored once.

    Args:
        model: a causal LM with plain softmax attention, in eval mode.
        prefixes: G token sequences (1-d long tensors), possibly empty.
        group: (B,) index of each row's prefix.
        visible: (B,) how many of its prefix's tokens a row attends to; the row goes on from that position.

    UnsupportedAttention: another attention.
    """

    def __init__(
        self, model: PreTrainedModel, prefixes: list[torch.Tensor], group: torch.Tensor, visible: torch.Tensor
    ):
        self.model = model
        self.modules = attention_modules(model)
        self.device = model.device
        self.prefix_keys: dict[int, torch.Tensor] = {}  # layer -> (G, H_kv, N, D)
        self.prefix_values: dict[int, torch.Tensor] = {}
        self.keys: dict[int, torch.Tensor] = {}  # layer -> (B, H_kv, room, D)
        self.values: dict[int, torch.Tensor] = {}
        self.length = 0  # tokens fed so far, the same for every row
        self.visible = visible.to(self.device)
        self._prefill(prefixes)
        self._place(group.to(self.device))

    @torch.inference_mode()
    def _prefill(self, prefixes: list[torch.Tensor]) -> None:
        self.prefix_length = max(len(p) for p in prefixes)
        if self.prefix_length == 0:
            return
        ids = torch.nn.utils.rnn.pad_sequence([p.to(self.device) for p in prefixes], batch_first=True)  # (G, N)

        def remember(module, query, key, value, attention):
            scale = _plain(module, attention.within(query.shape[2]))
            # contiguous, or each step's products would copy them once more
            self.prefix_keys[module.layer_idx] = key.contiguous()
            self.prefix_values[module.layer_idx] = value.contiguous()
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)

        with described_attention(self.model, remember):
            self.model(input_ids=ids, use_cache=False, **_last_logits(self.model, ids))

    def _place(self, group: torch.Tensor) -> None:
        """Give every row a slot (its group, its number in the group), so that a group's queries form one matrix."""
        self.group = group  # (B,)
        counts = torch.bincount(group, minlength=int(group.max()) + 1)  # (G,)
        order = torch.argsort(group, dim=0, stable=True)
        starts = torch.cumsum(counts, 0) - counts
        self.slot = torch.empty_like(group)
        self.slot[order] = torch.arange(len(group), device=group.device) - starts[group[order]]
        self.slots = int(counts.max())
        hidden = torch.arange(self.prefix_length, device=group.device) >= self.visible[:, None]  # (B, N)
        self.hidden = hidden if bool(hidden.any()) else None

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Decoder.step`: tokens (B,) -> logits (B, V)."""
        positions = (self.visible + self.length)[:, None]
        with described_attention(self.model, self._attend, self.modules):
            out = self.model(input_ids=tokens[:, None], position_ids=positions, use_cache=False)
        self.length += 1
        return _finite(out.logits[:, -1])

    def _attend(self, module, query, key, value, attention):
        # one token at a time fills no window here; `proof.hidden_within` has looked how far each layer sees
        scale = _plain(module, attention.within(query.shape[2]))
        rows, kv_heads, _, dim = key.shape
        per_kv = query.shape[1] // kv_heads
        layer = module.layer_idx
        own_keys = self._append(self.keys, layer, key)  # (B, H_kv, S, D)
        own_values = self._append(self.values, layer, value)
        q = query.reshape(rows, kv_heads, per_kv, dim) * scale  # (B, H_kv, R, D)
        own = q @ own_keys.transpose(-1, -2)  # (B, H_kv, R, S)
        if self.prefix_length == 0:
            return (own.softmax(-1, dtype=torch.float32).to(q.dtype) @ own_values).reshape(query.shape)

        shared_keys, shared_values = self.prefix_keys[layer], self.prefix_values[layer]  # (G, H_kv, N, D)
        groups, n = shared_keys.shape[0], self.prefix_length

        def to_slots(x: torch.Tensor) -> torch.Tensor:  # (B, H_kv, R, X) -> (G, H_kv, slots * R, X)
            out = x.new_zeros(groups, self.slots, kv_heads, per_kv, x.shape[-1])
            out[self.group, self.slot] = x
            return out.transpose(1, 2).reshape(groups, kv_heads, self.slots * per_kv, x.shape[-1])

        def to_rows(x: torch.Tensor) -> torch.Tensor:  # the way back
            x = x.view(groups, kv_heads, self.slots, per_kv, x.shape[-1]).transpose(1, 2)
            return x[self.group, self.slot]

        shared = to_rows(to_slots(q) @ shared_keys.transpose(-1, -2))  # (B, H_kv, R, N)
        if self.hidden is not None:
            shared.masked_fill_(self.hidden[:, None, None], float("-inf"))
        weights = torch.cat([shared, own], -1).softmax(-1, dtype=torch.float32).to(q.dtype)  # (B, H_kv, R, N + S)
        out = to_rows(to_slots(weights[..., :n]) @ shared_values) + weights[..., n:] @ own_values
        return out.reshape(query.shape)

    def _append(self, store: dict[int, torch.Tensor], layer: int, new: torch.Tensor) -> torch.Tensor:
        """Write (B, H_kv, 1, D) behind the row's own tokens, in room made a block at a time, and return all of them."""
        if layer not in store:
            store[layer] = F.pad(new, (0, 0, 0, _BLOCK - 1))
        elif self.length == store[layer].shape[2]:
            store[layer] = F.pad(store[layer], (0, 0, 0, _BLOCK))
        store[layer][:, :, self.length] = new[:, :, 0]
        return store[layer][:, :, : self.length + 1]

    def keep(self, rows: torch.Tensor) -> None:
        """See `Decoder.keep`: (rows,) indices. Prefixes that no row needs any more are dropped."""
        for store in (self.keys, self.values):
            for layer, kept in store.items():
                store[layer] = kept[rows]
        self.visible = self.visible[rows]
        used, group = torch.unique(self.group[rows], return_inverse=True)
        for store in (self.prefix_keys, self.prefix_values):
            for layer, kept in store.items():
                store[layer] = kept if len(used) == len(kept) else kept[used]
        self._place(group)


class CacheDecoder:
    """Decodes B rows through the model's own cache; arguments as of `PrefixDecoder`.

    Rows of unequal length are padded on the left: only for a model that is proven to bear it.

    Args:
        positions: hand the model its position ids, rather than let it count by itself.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefixes: list[torch.Tensor],
        group: torch.Tensor,
        visible: torch.Tensor,
        positions: bool = True,
    ):
        self.model = model
        self.positions = positions
        self.cache_name = "cache_params" if proof.accepts(model, "cache_params") else "past_key_values"
        self.contexts = [prefixes[g][:v] for g, v in zip(group.tolist(), visible.tolist(), strict=True)]
        self.visible = visible.to(model.device)
        self.length = 0  # tokens fed so far, the same for every row
        self.cache: Any = None
        self.mask: torch.Tensor | None = None  # (B, N): 1 where a token is; None where rows are of one length

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Decoder.step`: tokens (B,) -> logits (B, V)."""
        if self.cache is None:
            logits = self._prefill(tokens)
        else:
            if self.mask is not None:
                self.mask = F.pad(self.mask, (0, 1), value=1)
            positions = (self.visible + self.length)[:, None]
            logits = self._forward(tokens[:, None], positions, self.mask, **{self.cache_name: self.cache})
        self.length += 1
        return _finite(logits)

    def _prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits (B, V) after each row's context and its first token; equal rows are computed once."""
        rows = [(*context.tolist(), token) for context, token in zip(self.contexts, tokens.tolist(), strict=True)]
        distinct = list(dict.fromkeys(rows))
        longest = max(map(len, distinct))
        filled = [[row[0]] * (longest - len(row)) + list(row) for row in distinct]  # what stands there is not seen
        lengths = torch.tensor([len(row) for row in distinct], device=tokens.device)[:, None]
        positions = torch.arange(longest, device=tokens.device) - (longest - lengths)  # (distinct, N)
        mask = None if int(lengths.min()) == longest else (positions >= 0).long()
        logits = self._forward(torch.tensor(filled, device=tokens.device), positions.clamp(min=0), mask)
        number = {row: n for n, row in enumerate(distinct)}
        owner = torch.tensor([number[row] for row in rows], device=tokens.device)
        self.mask = None if mask is None else mask[owner]
        if len(distinct) < len(rows):
            self.cache.reorder_cache(owner)
        return logits[owner]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, **settings
    ) -> torch.Tensor:
        """The logits (rows, V) after ids (rows, N); the cache holds them from here on."""
        if self.positions and proof.accepts(self.model, "position_ids"):
            settings["position_ids"] = positions
        if mask is not None:
            settings["attention_mask"] = mask
        out = self.model(input_ids=ids, use_cache=True, **settings, **_last_logits(self.model, ids))
        if self.cache is None:
            self.cache = _known(getattr(out, self.cache_name, None))
        return out.logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """See `Decoder.keep`: (rows,) indices."""
        self.visible = self.visible[rows]
        self.contexts = [self.contexts[row] for row in rows.tolist()]
        self.mask = None if self.mask is None else self.mask[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)


class Lanes:
    """Rows that may not stand in one batch: one decoder for each lane, all fed in the same step."""

    def __init__(self, lanes: list[tuple[torch.Tensor, Decoder]]):
        self.lanes = lanes  # (rows, decoder): indices of its rows

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Decoder.step`: tokens (B,) -> logits (B, V)."""
        parts = [decoder.step(tokens[rows]) for rows, decoder in self.lanes]
        order = torch.cat([rows for rows, _ in self.lanes]).argsort()
        return torch.cat(parts)[order]

    def keep(self, rows: torch.Tensor) -> None:
        """See `Decoder.keep`: (rows,) indices."""
        kept = []
        for own, decoder in self.lanes:
            mine, new = (own[:, None] == rows).nonzero(as_tuple=True)  # old place in the lane, new place in the batch
            if len(mine):
                decoder.keep(mine)
                kept.append((new, decoder))
        self.lanes = kept


def _known(cache: object) -> Cache:
    """The cache itself. UnsupportedAttention: it does more than to keep keys, values and states of what it is given."""
    if not isinstance(cache, Cache):
        raise UnsupportedAttention("it keeps its state in another form than transformers' Cache")
    parts = (cache.self_attention_cache,) if isinstance(cache, EncoderDecoderCache) else (cache,)
    for layer in (layer for part in parts for layer in part.layers):
        kind = type(layer)
        if kind.__module__ != cache_utils.__name__ or kind.__name__ not in _KNOWN_LAYERS:
            raise UnsupportedAttention(f"its cache has layers of a kind not known here ({kind.__name__})")
    return cache


def _plain(module: torch.nn.Module, attention: Attention) -> float:
    """The factor on q k of an attention that is softmax(scale q k) and nothing else.

    UnsupportedAttention: it is more, or else.
    """
    if not attention.plain:
        raise UnsupportedAttention(f"{type(module).__name__} has {attention.more_than_plain()}: not plain attention")
    return attention.scale


def _last_logits(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """That logits are made of the last of ids (rows, N) alone.

    By its index, which copies the last hidden states: of a slice of them PyTorch 2.13 makes one product a row on a CPU
    in bfloat16, and copies the output matrix for each.
    """
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    return {"logits_to_keep": last} if proof.accepts(model, "logits_to_keep") else {}


def _finite(logits: torch.Tensor) -> torch.Tensor:
    ends = torch.cat([logits.amax(-1), logits.amin(-1)])  # without a mask of every token's
    if not bool(torch.isfinite(ends).all()):
        raise BrokenLogits("NaN or inf in the logits: the weights or the number format are broken")
    return logits.float()
