"""Per-head attention statistics without an N x N array.

Layers that are not sampled run their ordinary fused attention. In a sampled layer the same pass over the keys also
gives the log-sum-exp of each row, and the statistics follow from q, k and that number:

- span (Eq. 7) needs the expected key position of each row. One sum over positions would lose digits at long range
  (t - E[s] cancels): it is made of the mass in each of some blocks of positions, and the offset within the block. On a
  CPU both are read off tiles of attention weights; on a GPU they are extra columns of the values, so that the fused
  kernel returns them beside the output.
- WAAD (Eq. 9) needs the W nearest keys of each row: rows sum to one, so
  sum_s A min(t-s, W) = W - sum_{t-s<W} A (W-t+s).
- FAI (Eq. 10) needs the rows s+H_lo .. s+H_hi of column s.

The last two are read off tiles of exp(scale q k^T - lse) that cover the band and nothing else. A layer whose attention
is more than full (a window, chunks, a soft cap, a bias: `attention`) is computed in such tiles as a whole, over the
keys that its rule shows, and so is any layer that is read on a CPU. With sinks a row sums to rho < 1, and
sum_s A min(t-s, W) = W rho - sum_{t-s<W} A (W-t+s). Time and memory are linear in N for a bounded horizon but for the
attention itself; with an open one (H_hi = None) time is quadratic and memory still linear.

On a GPU where Triton is installed, `streaming_triton` does the same in kernels of its own.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from attention_rhythm.errors import NotFinite
from attention_rhythm.products import product
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.attention import TWICE, Attention, LastCall

Horizon = tuple[int, int | None]

_TILE, _SMALL_TILE = 128, 64  # rows of a tile; the smaller one for sequences that are not much longer
_ALONE = 2**15  # scores of a tile from which on the heads that share keys have matrix products of their own
_BLOCKS = 7  # blocks of key positions; with the offset column, 8 extra columns keep the head size aligned


@dataclass(frozen=True)
class HeadStatistics:
    """Statistics of every head of the sampled layers, float32. `waad` holds every row from the one before the first
    response token on; which row belongs to which token is decided by whoever reads it."""

    layers: tuple[int, ...]
    span: Float[Tensor, "B L H"]  # mean over response rows, in tokens
    waad: Float[Tensor, "B L H N"]  # by row t, in tokens
    fai: tuple[Float[Tensor, "B L H N"], ...]  # one for each horizon, by column s; NaN where T(s) is empty

    def at(self, rows: Int[Tensor, "b"]) -> HeadStatistics:
        """Those of some sequences, in this order."""
        return HeadStatistics(self.layers, self.span[rows], self.waad[rows], tuple(f[rows] for f in self.fai))


class LastLayerRead(Exception):
    """Ends a forward pass whose remaining layers nobody needs."""


@cache
def triton_kernels(device: torch.device) -> ModuleType | None:
    """`streaming_triton` on a GPU where Triton is installed, else None."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from attention_rhythm.signals import streaming_triton

    return streaming_triton


def fused_attention(
    query: Float[Tensor, "B H T D"], key: Float[Tensor, "B G T D"], value: Float[Tensor, "B G T D"], scale: float
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """Causal attention of a GPU's fused kernel, and the log-sum-exp (nats) of each row's scaled scores; float32."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    out, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, True, scale=scale
    )
    return out, lse[..., : query.shape[2]]  # the kernel pads the rows


def attention_and_span(
    query: Float[Tensor, "B H T D"], key: Float[Tensor, "B G T D"], value: Float[Tensor, "B G T Dv"], scale: float
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"], Float[Tensor, "B H T"]]:
    """Attention output, log-sum-exp (nats), and sum_s A[t, s] (t - s) of each row (tokens; the inner sum of Eq. 7)."""
    if query.device.type == "cpu":  # the fused kernel of a CPU is slower than its matrix products
        return tiled_attention(query, key, value, Attention(scale))
    if kernels := triton_kernels(query.device):
        return kernels.attention_and_span(query, key, value, scale)
    length, dim = key.shape[2], value.shape[3]
    position = torch.arange(length, device=key.device)
    block = position * _BLOCKS // length
    centre = torch.zeros(_BLOCKS, device=key.device).scatter_reduce(
        0, block, position.float(), "mean", include_self=False
    )
    columns = torch.cat([F.one_hot(block, _BLOCKS).float(), (position - centre[block])[:, None]], -1)  # (T, 8)
    value = torch.cat([value, columns.expand(*value.shape[:2], -1, -1)], -1)
    size = max(query.shape[3], value.shape[3])  # one head size for all three
    q, k, v = (F.pad(x, (0, size - x.shape[3])) for x in (query, key, value))
    out, lse = fused_attention(q, k, v, scale)
    mass, offset = out[..., dim : dim + _BLOCKS], out[..., dim + _BLOCKS]  # (B, H, T, blocks), (B, H, T)
    distance = torch.einsum("bhtk,tk->bht", mass, position[:, None] - centre) - offset
    return out[..., :dim], lse, distance


def tile_rows(length: int) -> int:
    """Rows of a tile, and keys of a block, of sequences of `length` tokens."""
    return _SMALL_TILE if length <= 2 * _SMALL_TILE else _TILE


def tiled_attention(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S Dv"],
    attention: Attention,
    before: int | None = None,
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"], Float[Tensor, "B H T"]]:
    """What `attention_and_span` gives (nats, tokens), of any attention but for its sinks, in ordinary matrix products.

    Only keys that the rule shows to some query of a tile are touched, up to whole blocks.

    before: tokens from the first key to the first query. None: the queries are those of the last T of the S tokens. If
    it is S or more, and S whole blocks, every query sees every key.
    """
    batch, heads, own_rows, dim = query.shape
    groups, length, width = key.shape[1], key.shape[2], value.shape[3]
    tile = tile_rows(length)
    before = length - own_rows if before is None else before
    end, shared = before + own_rows, heads // groups  # heads that look at the same keys
    grouped = query.reshape(batch, groups, shared, own_rows, dim)
    key, value = key.contiguous(), value.contiguous()
    out = query.new_empty(batch, groups, shared, own_rows, width)
    lse, distance = (query.new_empty(batch, groups, shared, own_rows, dtype=torch.float32) for _ in range(2))
    size, parts = (batch, groups), [(slice(batch), slice(groups))]
    if attention.bias is None and shared * tile * length >= _ALONE:
        size, parts = (1, 1), [(slice(b, b + 1), slice(g, g + 1)) for b in range(batch) for g in range(groups)]
    to_end = torch.arange(tile, 0, -1, device=query.device, dtype=torch.float32)  # of a block, from each of its keys
    within = torch.arange(tile, device=query.device, dtype=torch.float32)
    away = within[:, None] - within  # inside a block; below zero above the diagonal

    # tiles do not cross the borders of blocks; the largest comes first, and what it leaves free has room for the others
    for t0 in reversed([before, *range((before // tile + 1) * tile, end, tile)]):
        b0 = t0 // tile * tile
        t1, s0 = min(b0 + tile, end), attention.first_key(t0) // tile * tile
        s1, far_blocks = min(t1, length), (min(b0, length) - s0) // tile
        t, s, own = t1 - t0, s1 - s0, slice(t0 - before, t1 - before)
        near = away[t0 - b0 : t1 - b0, : max(s1 - b0, 0)]
        for part in parts:
            q = grouped[part][:, :, :, own].flatten(2, 3).flatten(0, 1)  # (P, H/G * t, D)
            k, v = (x[part][:, :, s0:s1].flatten(0, 1) for x in (key, value))  # (P, s, D), (P, s, Dv)
            scores = product(q, k).float().view(size[0], size[1] * shared, t, s)
            scores = attention.scores_(scores, t0, s0)
            scores[..., b0 - s0 :].masked_fill_(near < 0, float("-inf"))
            weights = scores.softmax(-1).view(*size, shared, t, s)
            # by blocks of keys, since long sums in float32 lose digits
            blocks = F.pad(weights, (0, -s % tile)) if s % tile else weights
            blocks = blocks.unflatten(-1, (-1, tile))  # (b, G, H/G, t, blocks, tile)
            mass, offset = blocks.sum(-1), blocks @ to_end
            total = mass.sum(-1)  # softmax adds up with less care: not quite one in long rows
            # of the largest score, where no weight is lost to underflow: log A = x - lse
            lse[part][..., own] = scores.amax(-1).view(total.shape) - torch.log(weights.amax(-1) / total)
            # keys before the block: from t to the end of theirs and from there to s, so that nothing cancels
            ends = b0 - s0 - tile * torch.arange(1, far_blocks + 1, device=query.device)
            far = offset[..., :far_blocks] + mass[..., :far_blocks] * (within[t0 - b0 : t1 - b0, None] + ends)
            distance[part][..., own] = (far.sum(-1) + (weights[..., b0 - s0 :] * near).sum(-1)) / total
            mixed = product(weights.view(-1, shared * t, s).to(v.dtype), v.mT)  # (P, H/G * t, Dv)
            out[part][:, :, :, own] = mixed.view(*size, shared, t, width) / total[..., None]
    return out.flatten(1, 2), lse.flatten(1, 2), distance.flatten(1, 2)


def read_attention(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T Dv"],
    attention: Attention,
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"], Float[Tensor, "B H T"], Float[Tensor, "B H T"] | None]:
    """Output, log-sum-exp (nats), sum_s A[t, s] (t - s) (tokens), and rho, what each row sums to; None: to one."""
    if attention.full:
        out, lse, distance = attention_and_span(query, key, value, attention.scale)
    else:
        out, lse, distance = tiled_attention(query, key, value, attention)
    if attention.sinks is None:
        return out, lse, distance, None
    whole = torch.logaddexp(lse, attention.sinks[:, None])  # (B, H, T)
    rho = torch.exp(lse - whole)
    return out * rho[..., None], whole, distance * rho, rho


def attention_output(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T Dv"],
    attention: Attention,
) -> Float[Tensor, "B H T Dv"]:
    """The output alone, in the unit and the number format of `value`: what a layer that is not read costs."""
    if not attention.plain:
        return read_attention(query, key, value, attention)[0].to(value.dtype)
    width = value.shape[3]
    if width < query.shape[3]:  # the fused kernels want one head size for all three
        value = F.pad(value, (0, query.shape[3] - width))
    scale = attention.scale
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return out[..., :width]


def band_statistics(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    lse: Float[Tensor, "B H T"],
    attention: Attention,
    response: Bool[Tensor, "B T"],
    window: int,
    horizons: Sequence[Horizon],
    rho: Float[Tensor, "B H T"] | None = None,
) -> tuple[Float[Tensor, "B H T"], list[Float[Tensor, "B H T"]]]:
    """WAAD of each row (Eq. 9; tokens) and FAI of each column (Eq. 10; a mean attention weight), for each head.

    Only the tiles that the bands touch are computed. rho: what each row sums to; None: to one.
    """
    if attention.plain and (kernels := triton_kernels(query.device)):
        waad = kernels.waad_rows(query, key, lse, attention.scale, response, window)
        received = kernels.received_attention(query, key, lse, attention.scale, response, horizons)
    else:
        waad, received = band_tiles(query, key, lse, attention, response, window, horizons)
        if rho is not None:
            waad = waad - min(window, query.shape[2]) * (1 - rho)
    return waad, [mean_received(total, response, horizon) for total, horizon in zip(received, horizons, strict=True)]


def band_tiles(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    lse: Float[Tensor, "B H T"],
    attention: Attention,
    response: Bool[Tensor, "B N"],
    window: int,
    horizons: Sequence[Horizon],
) -> tuple[Float[Tensor, "B H T"], list[Float[Tensor, "B H S"]]]:
    """WAAD of each row as if rows summed to one, and for each horizon what each column received from them in sum.

    The queries are those of the last T of the S first tokens. In ordinary matrix products.
    """
    batch, heads, own_rows, dim = query.shape
    groups, length = key.shape[1:3]
    before = length - own_rows
    grouped = query.reshape(batch, groups, heads // groups, own_rows, dim)
    window = min(window, length)  # the same minimum, and no digits lost to a W that no distance reaches
    touched = response.any(0).nonzero()[:, 0]
    start, end = int(touched[0]), min(int(touched[-1]) + 1, length)
    tile = tile_rows(length)
    waad = query.new_full((batch, heads, own_rows), float("nan"))
    received = [query.new_zeros(batch, heads, length) for _ in horizons]
    rows = response.float()

    for t0 in range(max(start - 1, before), end, tile):
        t1 = min(t0 + tile, end)
        reach = [start if high is None else max(t0 - high, start) for _, high in horizons]
        s0 = max(min([t0 - window + 1, *reach]), attention.first_key(t0))
        own = slice(t0 - before, t1 - before)
        columns = key[:, :, s0:t1].to(query.dtype).transpose(-1, -2)  # (B, G, D, s)
        scores = grouped[:, :, :, own].flatten(2, 3) @ columns  # (B, G, H/G * t, s)
        scores = scores.view(batch, heads, t1 - t0, t1 - s0)
        weights = torch.exp_(attention.scores_(scores, t0, s0).sub_(lse[:, :, own, None]))  # A[t, s] where s <= t
        distance = torch.arange(t0, t1, device=query.device)[:, None] - torch.arange(s0, t1, device=query.device)
        # above the diagonal exp() may be inf, which no product with 0 takes away
        weights[..., t0 - s0 :].masked_fill_(distance[:, t0 - s0 :] < 0, 0)

        near = max(t0 - window + 1, s0) - s0  # first column inside the window of any row
        kernel = torch.where(distance >= 0, window - distance, 0).clamp_(min=0).to(weights.dtype)
        waad[:, :, own] = window - (weights[..., near:] * kernel[:, near:]).sum(-1)

        for total, (low, high) in zip(received, horizons, strict=True):
            band = distance >= max(low, 0) if high is None else (distance >= max(low, 0)) & (distance <= high)
            total[:, :, s0:t1] += (weights * (band * rows[:, t0:t1, None])[:, None]).sum(2)
    return waad, received


def mean_received(
    total: Float[Tensor, "B H T"], response: Bool[Tensor, "B T"], horizon: Horizon
) -> Float[Tensor, "B H T"]:
    """Sums over T(s) as means (Eq. 10), mean attention weights; NaN where T(s) is empty."""
    (low, high), length = horizon, response.shape[1]
    before = F.pad(response.float().cumsum(1), (1, 0))  # (B, T + 1): response rows before position i
    position = torch.arange(length, device=response.device)
    first = (position + low).clamp(max=length)
    last = torch.full_like(position, length) if high is None else (position + high + 1).clamp(max=length)
    count = before[:, last] - before[:, first]  # (B, T): |T(s)|
    return total / torch.where(count > 0, count, float("nan"))[:, None]


class SignalRecorder:
    """An attention function for `described_attention` that also gathers `HeadStatistics`.

    Args:
        layers: the sampled layers.
        response: (B, N) bool, the response tokens of right-padded sequences.
        window, horizons: W of Eq. 9 and the (H_lo, H_hi) pairs of Eq. 10.
        early_exit: stop the forward pass once the last sampled layer has been read.
    """

    def __init__(
        self,
        layers: Sequence[int],
        response: Bool[Tensor, "B N"],
        window: int,
        horizons: Sequence[Horizon],
        early_exit: bool = False,
    ):
        self.layers = tuple(layers)
        self.response, self.window, self.horizons = response, window, tuple(horizons)
        self.early_exit = early_exit
        self._read: dict[int, tuple[Tensor, Tensor, list[Tensor]]] = {}
        self._total: Tensor | float = 0.0
        self._last = LastCall()

    def __call__(self, module, query, key, value, attention):
        # the fused CPU kernel gives zeros where a query is NaN: what is broken has to be seen before it
        self._total = self._total + query.sum(dtype=torch.float32) + key.sum(dtype=torch.float32)
        layer, device = module.layer_idx, query.device
        attention = attention.within(query.shape[2])
        repeated = self._last.repeated(layer, query, key)
        if layer not in self.layers or repeated:
            return attention_output(query, key, value, attention)
        if layer in self._read:
            raise UnsupportedAttention(f"layer {layer} {TWICE}")
        autocast = torch.is_autocast_enabled(device.type)
        own = torch.get_autocast_dtype(device.type) if autocast else query.dtype  # what the model's attention runs in
        # Positions and small weights do not survive bfloat16. Triton's kernels keep float32 sums of the model's own
        # numbers; the others are handed float32, and autocast, which would undo that, is off in the layers read.
        dtype = own if attention.plain and triton_kernels(device) else torch.float32
        with torch.autocast(device.type, enabled=False):
            out = self._attend(layer, query.to(dtype), key.to(dtype), value.to(dtype), attention)
        if self.early_exit and layer == self.layers[-1]:
            raise LastLayerRead
        return out.to(own)

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        """Attention output of a sampled layer, whose statistics are kept."""
        out, lse, distance, rho = read_attention(query, key, value, attention)
        rows = self.response[:, None]
        span = torch.where(rows, distance, 0).sum(-1) / rows.sum(-1)  # (B, H)
        band = band_statistics(query, key, lse, attention, self.response, self.window, self.horizons, rho)
        self._read[layer] = (span, *band)
        return out

    def statistics(self) -> HeadStatistics:
        """What was gathered.

        UnsupportedAttention: a sampled layer never came by. NotFinite: NaN or inf in some q or k.
        """
        if not math.isfinite(self._total):
            raise NotFinite("NaN or inf in the attention: the weights or the number format are broken")
        missing = [layer for layer in self.layers if layer not in self._read]
        if missing:
            raise UnsupportedAttention(f"layers {missing} did not go through the attention interface: no signals")
        if len({self._read[layer][0].shape for layer in self.layers}) > 1:
            heads = [self._read[layer][0].shape[1] for layer in self.layers]
            raise UnsupportedAttention(f"layers {list(self.layers)} have {heads} heads: read layers that have as many")
        spans, waads, fais = zip(*(self._read[layer] for layer in self.layers), strict=True)
        fai = tuple(torch.stack(f, 1) for f in zip(*fais, strict=True))  # one for each horizon
        return HeadStatistics(self.layers, torch.stack(spans, 1), torch.stack(waads, 1), fai)


def together(parts: Sequence[HeadStatistics], width: int) -> HeadStatistics:
    """The statistics of several batches as those of one, N = width; NaN where a batch was narrower."""
    fai = tuple(one_below_another(list(f), width) for f in zip(*(s.fai for s in parts), strict=True))
    spans, waads = torch.cat([s.span for s in parts]), one_below_another([s.waad for s in parts], width)
    return HeadStatistics(parts[0].layers, spans, waads, fai)


def one_below_another(tensors: Sequence[Tensor], width: int) -> Float[Tensor, "B *more N"]:
    """Batches as one, N = width, in their own unit; NaN where a batch was narrower."""
    return torch.cat([F.pad(x, (0, width - x.shape[-1]), value=float("nan")) for x in tensors])


def ends(response: Bool[Tensor, "B N"]) -> Int[Tensor, "B"]:
    """Tokens of each right-padded sequence up to the last of its response."""
    return (response * torch.arange(1, response.shape[1] + 1, device=response.device)).amax(1)
