"""The equations of Sec. 4, literally, from eager N x N attention maps: the oracle, and the source of small heat maps.

Nothing here is shared with `streaming`: padding is left as it is, masks are transformers'
own, sums run over whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

Horizon = tuple[int, int | None]


@torch.no_grad()
def attention_maps(
    model: PreTrainedModel, input_ids: Int[Tensor, "B N"], attention_mask: Bool[Tensor, "B N"], layers: Sequence[int]
) -> Float[Tensor, "B L H N N"]:
    """A[l, h][t, s] of the given layers in float32, from eager attention; rows of padding tokens are meaningless."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = "eager"
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    try:
        out = model(
            input_ids=input_ids,
            attention_mask=attention_mask.long(),
            position_ids=positions,
            use_cache=False,
            output_attentions=True,
            logits_to_keep=1,
        )
    finally:
        config._attn_implementation = before
    return torch.stack([out.attentions[layer].float() for layer in layers], 1)


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
