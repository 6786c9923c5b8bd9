"""The equations of Sec. 4, literally, from eager N x N attention maps: the oracle, and the source of small heat maps.

Nothing of the computation is shared with `streaming`: masks and softmax are transformers' own, each sequence is read
alone without padding, sums run over whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    attention_implementation,
    attention_layers,
    check_readable,
    fresh_positions,
    language_model,
    text_config,
)
from attention_rhythm.signals.attention import attention_of_layers, check_called_once

Horizon = tuple[int, int | None]


@torch.no_grad()
def attention_maps(
    model: PreTrainedModel, input_ids: Int[Tensor, "B N"], attention_mask: Bool[Tensor, "B N"], layers: Sequence[int]
) -> Float[Tensor, "B L H N N"]:
    """The weights A[l, h][t, s] of layers (the model's own numbers), float32, from eager attention; 0 at padding.

    Each sequence is read alone: no padding is there to be seen, and positions begin where the model begins them.

    UnsupportedAttention: the model gives no maps, not one for each layer of softmax attention, or others than it uses.
    """
    model = language_model(model)
    check_readable(model, int(attention_mask.sum(1).max()))
    sinks = _layers_with_sinks(model, layers)
    least = 1 - (1e-6 if model.dtype in (torch.float32, torch.float64) else 1e-2)  # of a row that sums to one
    maps = None
    for b, own in enumerate(attention_mask):
        with attention_implementation(model, "eager"), fresh_positions(model):
            out = model(input_ids=input_ids[b : b + 1, own], use_cache=False, output_attentions=True, logits_to_keep=1)
        found = _by_layer(model, out)
        if missing := [layer for layer in layers if layer not in found]:
            raise UnsupportedAttention(f"layers {missing} of {model.config.model_type} give no attention maps")
        n = int(own.sum())
        if any(found[layer].shape != (*found[layers[0]].shape[:2], n, n) for layer in layers):
            shapes = sorted({tuple(found[layer].shape[1:]) for layer in layers})
            raise UnsupportedAttention(
                f"{model.config.model_type} gives maps of {shapes} (heads, queries, keys) for {n} tokens"
            )
        alone = torch.stack([found[layer][0].float() for layer in layers])  # (L, H, n, n)
        if bool((alone.triu(1) > 0).any()):
            raise UnsupportedAttention(f"{model.config.model_type} looks ahead: its attention is not causal")
        sums = dict(zip(layers, alone.sum(-1), strict=True))  # layer -> (H, n)
        if without := [layer for layer in layers if layer in sinks and bool((sums[layer] > least).all())]:
            raise UnsupportedAttention(f"layers {without} of {model.config.model_type} give maps without their sinks")
        if maps is None:
            maps = alone.new_zeros(len(input_ids), *alone.shape[:2], *[input_ids.shape[1]] * 2)
        start = int(own.nonzero()[0])
        maps[b, :, :, start : start + n, start : start + n] = alone
    assert maps is not None  # a batch has a sequence
    return maps


def _layers_with_sinks(model: PreTrainedModel, layers: Sequence[int]) -> set[int]:
    """The layers that have sinks. UnsupportedAttention: one of the layers has several maps in one pass."""
    try:
        known = attention_of_layers(model)
    except UnsupportedAttention:
        return set()  # an attention that streaming does not understand has maps all the same
    check_called_once(model, layers)
    return {layer for layer, attention in known if attention.sinks is not None}


def _by_layer(model: PreTrainedModel, out: ModelOutput) -> dict[int, Float[Tensor, "1 _ _ _"]]:
    """The maps that a model gave, by layer. transformers leaves out the layers that have none."""
    maps = [x for x in getattr(out, "attentions", None) or () if x is not None]
    numbers: Sequence[int] = range(getattr(text_config(model), "num_hidden_layers", 0))
    if len(maps) != len(numbers):
        numbers = attention_layers(model)
    if len(maps) != len(numbers):
        raise UnsupportedAttention(
            f"{model.config.model_type} gives {len(maps)} attention maps for {len(numbers)} layers of attention"
        )
    return dict(zip(numbers, maps, strict=True))


def span(maps: Float[Tensor, "B L H N N"], response: Bool[Tensor, "B N"]) -> Float[Tensor, "B L H"]:
    """Eq. 7: d[l,h] = mean over t in R of sum_s A[t, s] (t - s), in tokens."""
    n = maps.shape[-1]
    t, s = torch.arange(n, device=maps.device)[:, None], torch.arange(n, device=maps.device)
    per_row = (maps * (t - s)).sum(-1)  # (B, L, H, N)
    rows = response[:, None, None]
    return torch.where(rows, per_row, 0).sum(-1) / rows.sum(-1)


def waad(maps: Float[Tensor, "*batch N N"], window: int) -> Float[Tensor, "*batch N"]:
    """Eq. 9: WAAD_t = sum_s A[t, s] min(t - s, W), in tokens, for every row t."""
    n = maps.shape[-1]
    t, s = torch.arange(n, device=maps.device)[:, None], torch.arange(n, device=maps.device)
    return (maps * (t - s).clamp(max=window)).sum(-1)


def fai(
    maps: Float[Tensor, "B *heads N N"], response: Bool[Tensor, "B N"], horizon: Horizon
) -> Float[Tensor, "B *heads N"]:
    """Eq. 10: FAI_s = mean over T(s) of A[t, s], T(s) = {t in R : s + H_lo <= t <= min(N, s + H_hi)}.

    A mean attention weight, 0 to 1. NaN where T(s) is empty.
    """
    n = maps.shape[-1]
    low, high = horizon[0], n if horizon[1] is None else horizon[1]
    t, s = torch.arange(n, device=maps.device)[:, None], torch.arange(n, device=maps.device)
    in_range = (t >= s + low) & (t <= s + high) & response[:, :, None]  # (B, N, N)
    in_range = in_range.view(len(maps), *(1,) * (maps.ndim - 3), n, n)
    count = in_range.sum(-2)
    return torch.where(in_range, maps, 0).sum(-2) / torch.where(count > 0, count, float("nan"))
