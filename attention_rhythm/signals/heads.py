"""Which layers are read, which heads are local, global or receivers (Eqs. 7 and 8; Sec. 4.2)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attention_rhythm.errors import InputError


def select_layers(num_hidden_layers: int, layers: str | tuple[int, ...], num_layers: int | None) -> tuple[int, ...]:
    """The layers that are read: a third of the model (or all of it, or a given tuple), evenly thinned to `num_layers`.

    "middle" runs from floor(L/3) to floor(2L/3), "bottom" from 0 to floor(L/3), "top" from floor(2L/3) to L-1, "all"
    from 0 to L-1; the thinned layers are round(linspace(first, last, num_layers)) with duplicates dropped.

    InputError: another name, a layer that the model does not have, or none.
    """
    if not isinstance(layers, str):
        wrong = [layer for layer in layers if not 0 <= layer < num_hidden_layers]
        if wrong or not layers:
            raise InputError(f"layers {wrong or layers} are not layers of a model that has {num_hidden_layers}")
        return tuple(sorted(set(layers)))
    third, two_thirds, last = num_hidden_layers // 3, 2 * num_hidden_layers // 3, num_hidden_layers - 1
    ranges = {"middle": (third, two_thirds), "bottom": (0, third), "top": (two_thirds, last), "all": (0, last)}
    if layers not in ranges:
        raise InputError(f"layers must be one of {sorted(ranges)} or a tuple of layer numbers, not {layers!r}")
    low, high = ranges[layers]
    high = min(high, last)
    if num_layers is None:
        return tuple(range(low, high + 1))
    return tuple(dict.fromkeys(int(x) for x in np.round(np.linspace(low, high, num_layers))))


def head_sets(
    span: Float[Tensor, "*batch L H"], fraction: float | None
) -> tuple[Bool[Tensor, "*batch L H"], Bool[Tensor, "*batch L H"]]:
    """Eq. 8: the heads of lowest (local) and highest (global) span, `fraction` of all heads each.

    The size is fraction x heads, rounded with halves up, at least 1; ties go to the lower (layer, head).
    With `fraction=None` every head is in both sets (the all-heads ablation, Table 14).

    InputError: a fraction outside (0, 1].
    """
    if fraction is None:
        return torch.ones_like(span, dtype=torch.bool), torch.ones_like(span, dtype=torch.bool)
    if not 0 < fraction <= 1:
        raise InputError(f"head_fraction must be in (0, 1], not {fraction}")
    flat = span.flatten(-2)  # (*batch, L * H)
    size = max(1, math.floor(fraction * flat.shape[-1] + 0.5))

    def first(order: Tensor) -> Tensor:
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        return chosen.scatter(-1, order[..., :size], True).view(span.shape)

    return first(flat.argsort(dim=-1, stable=True)), first(flat.argsort(dim=-1, descending=True, stable=True))


def kurtosis(values: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """Excess kurtosis (no unit) over the defined (not NaN) values of the last axis; 0 where they do not vary."""
    defined = ~values.isnan()
    count = defined.sum(-1)
    x = values.nan_to_num(0.0)
    centred = torch.where(defined, x - (x.sum(-1) / count)[..., None], 0.0)
    variance = centred.square().sum(-1) / count
    fourth = centred.pow(4).sum(-1) / count
    return torch.where(variance > 0, fourth / variance.square() - 3, 0.0)


def receiver_heads(received: Float[Tensor, "P L H"], count: int = 20) -> Bool[Tensor, "L H"]:
    """Receiver heads (Bogdan et al. 2025): the `count` heads of highest kurtosis of received attention.

    Args:
        received: for each of P responses and each head, the kurtosis over positions of the mean attention that a
            position gets from later ones (`kurtosis` of a per-head FAI). Averaged over the responses here.
    """
    mean = received.mean(0)  # (L, H)
    chosen = torch.zeros_like(mean.flatten(), dtype=torch.bool)
    chosen[mean.flatten().argsort(dim=0, descending=True, stable=True)[:count]] = True
    return chosen.view(mean.shape)
