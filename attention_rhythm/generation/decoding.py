"""Decoding many continuations of few prefixes, each prefix computed and stored once.

A *prefix* is a token sequence whose keys and values are shared by all rows of its group: the prompt of sixteen samples,
or a whole response of which each row re-uses the first p tokens (`visible`) before it goes its own way, as the
perturbation study of Sec. 4.3 does. Per layer the queries of one group meet the group's keys in one matrix product.
Rows that have finished leave the batch. There is no padding on the left and no mask of size (T, T).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from attention_rhythm.generation.base import BrokenLogits, GenerationError
from attention_rhythm.signals.plain_attention import replaced_attention

_BLOCK = 64  # tokens


class PrefixDecoder:
    """Decodes B rows, each the continuation of one of G prefixes.

    Args:
        model: a causal LM with plain softmax attention, in eval mode.
        prefixes: G token sequences (1-d long tensors), possibly empty.
        group: (B,) index of each row's prefix.
        visible: (B,) how many of its prefix's tokens a row attends to; the row goes on from that position.

    Raises:
        GenerationError: a prefix that is longer than the model's context. UnsupportedAttention: another attention.
    """

    def __init__(
        self, model: PreTrainedModel, prefixes: list[torch.Tensor], group: torch.Tensor, visible: torch.Tensor
    ):
        self.model = model
        self.device = model.device
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and int(visible.max()) + 1 > limit:
            raise GenerationError(f"a prompt of {int(visible.max()) + 1} tokens is longer than the context of {limit}")
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

        def remember(module, query, key, value, scale):
            # contiguous, or each step's products would copy them once more
            self.prefix_keys[module.layer_idx] = key.contiguous()
            self.prefix_values[module.layer_idx] = value.contiguous()
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)

        with replaced_attention(self.model, remember):
            self.model(input_ids=ids, use_cache=False, logits_to_keep=1)

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
        """Feed one token to each row, (B,), and return the logits of the next one, (B, V), float32.

        BrokenLogits: NaN or inf in them.
        """
        positions = (self.visible + self.length)[:, None]
        with replaced_attention(self.model, self._attend):
            out = self.model(input_ids=tokens[:, None], position_ids=positions, use_cache=False)
        self.length += 1
        logits = out.logits[:, -1].float()
        if not bool(torch.isfinite(logits).all()):
            raise BrokenLogits("NaN or inf in the logits: the weights or the number format are broken")
        return logits

    def _attend(self, module, query, key, value, scale):
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
            shared = shared.masked_fill(self.hidden[:, None, None], float("-inf"))
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
        """Go on with these rows only, (rows,) indices, and drop the prefixes that no row needs any more."""
        for store in (self.keys, self.values):
            for layer, kept in store.items():
                store[layer] = kept[rows]
        self.visible = self.visible[rows]
        used, group = torch.unique(self.group[rows], return_inverse=True)
        for store in (self.prefix_keys, self.prefix_values):
            for layer, kept in store.items():
                store[layer] = kept if len(used) == len(kept) else kept[used]
        self._place(group)
