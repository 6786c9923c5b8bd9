"""The statistics of `streaming` on a GPU, in three Triton kernels that read the model's own q, k and v.

    forward   causal flash attention; beside the output, the log-sum-exp of each row and sum_s A[t, s] (t - s) (Eq. 7).
              Distances are whole numbers in float32 and their weights are positive, so nothing cancels.
    waad      Eq. 9 for a block of rows, from the key blocks that its window touches
    fai       Eq. 10 for a block of columns, from the row blocks that its horizon touches

No copies: heads that share keys read the same ones (key head = head // group), and float16 and bfloat16 are read as
they are. Their products are exact in float32, and all sums are in float32: the statistics are those of the float32
path on the same q and k, to float32's rounding. The output is the model's own kind: as in every flash kernel, weights
are rounded to the value's dtype before they meet the values. With float32 inputs products are IEEE ones, not TF32.

Every program owns what it writes and sums in a fixed order, and tile sizes depend on the shapes alone (no autotuning):
a repeated run gives the same bits. Time and memory are as in `streaming`.

With TRITON_INTERPRET=1 in the environment before triton is first imported, the same kernels run on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

Horizon = tuple[int, int | None]

_LOG2E = 1.4426950408889634  # kernels work with powers of two: exp2 is the instruction that a GPU has


class Tiles(NamedTuple):
    """Sizes of a program's tile, and how the compiler is to lay it out."""

    rows: int  # of queries; a multiple of `keys`
    keys: int
    num_warps: int
    num_stages: int


def tiles(dtype: torch.dtype, dim: int) -> Tiles:
    """Tiles that fit a multiprocessor's registers and shared memory (at most 100 KB), for heads of `dim` numbers."""
    if dtype == torch.float32:  # without tensor cores: larger tiles spill by the kilobyte
        return Tiles(16, 16, 4, 1) if dim > 128 else Tiles(32, 32, 8, 1)
    if dim > 128:
        return Tiles(64, 32, 4, 2)
    return Tiles(128, 64, 8 if dim > 64 else 4, 2)


# -------------------------------------------------------------------------------------------- kernels


@triton.jit
def _powers(q, k, scale, PRECISION: tl.constexpr):
    """Scaled scores (rows, keys) of q (rows, D) and k (D, keys), as powers of two, float32."""
    return tl.dot(q, k, input_precision=PRECISION) * scale


@triton.jit
def _head(pointer, batch, head, stride_b, stride_h):
    """Where one head of one sequence begins; 64 bits, for a batch may hold more than 2^31 numbers."""
    return pointer + batch.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h


@triton.jit
def _attend(
    state, q, row, k_ptr, v_ptr, k_t, v_t, first, last, length, scale,
    D: tl.constexpr, V: tl.constexpr, D_PAD: tl.constexpr, V_PAD: tl.constexpr, KEYS: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go on with the online softmax over keys first .. last - 1; MASKED where some lie behind a row or past the end."""
    peak, mass, distance, out = state
    d, dv = tl.arange(0, D_PAD), tl.arange(0, V_PAD)
    for start in range(first, last, KEYS):
        column = start + tl.arange(0, KEYS)
        there = column < length
        k_at, v_at = k_ptr + column[None, :] * k_t + d[:, None], v_ptr + column[:, None] * v_t + dv[None, :]
        if MASKED:
            k = tl.load(k_at, mask=there[None, :] & (d < D)[:, None], other=0.0)
            v = tl.load(v_at, mask=there[:, None] & (dv < V)[None, :], other=0.0)
        else:
            k = tl.load(k_at) if D == D_PAD else tl.load(k_at, mask=(d < D)[:, None], other=0.0)
            v = tl.load(v_at) if V == V_PAD else tl.load(v_at, mask=(dv < V)[None, :], other=0.0)
        power = _powers(q, k, scale, PRECISION)
        if MASKED:
            power = tl.where(column[None, :] <= row[:, None], power, float("-inf"))
        higher = tl.maximum(peak, tl.max(power, 1))
        weight = tl.exp2(power - higher[:, None])  # (rows, KEYS), relative to the row's peak so far
        shrink = tl.exp2(peak - higher)
        peak = higher
        mass = mass * shrink + tl.sum(weight, 1)
        away = row.to(tl.float32)[:, None] - column.to(tl.float32)[None, :]  # exact; weight 0 where it is negative
        distance = distance * shrink + tl.sum(weight * away, 1)
        out = tl.dot(weight.to(v.dtype), v, out * shrink[:, None], input_precision=PRECISION)
    return peak, mass, distance, out


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, distance_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, out_b, out_h, out_t,
    heads, group, length, scale,
    D: tl.constexpr, V: tl.constexpr, D_PAD: tl.constexpr, V_PAD: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (row blocks, B * H). out (B, H, T, V), lse (B, H, T) in nats, distance (B, H, T) in tokens."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    row = block * ROWS + tl.arange(0, ROWS)
    d, dv = tl.arange(0, D_PAD), tl.arange(0, V_PAD)
    q_at = _head(q_ptr, batch, head, q_b, q_h) + row[:, None] * q_t + d[None, :]
    q = tl.load(q_at, mask=(row < length)[:, None] & (d < D)[None, :], other=0.0)
    keys, values = _head(k_ptr, batch, head // group, k_b, k_h), _head(v_ptr, batch, head // group, v_b, v_h)
    state = (
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
        tl.zeros([ROWS], tl.float32),
        tl.zeros([ROWS, V_PAD], tl.float32),
    )
    diagonal = block * ROWS  # keys before it are seen by every row of the block
    end = tl.minimum(diagonal + ROWS, length)
    state = _attend(
        state, q, row, keys, values, k_t, v_t, 0, diagonal, length, scale, D, V, D_PAD, V_PAD, KEYS, False, PRECISION
    )
    peak, mass, distance, out = _attend(
        state, q, row, keys, values, k_t, v_t, diagonal, end, length, scale, D, V, D_PAD, V_PAD, KEYS, True, PRECISION
    )
    own = tl.program_id(1).to(tl.int64) * length + row
    tl.store(lse_ptr + own, (peak + tl.log2(mass)) * 0.6931471805599453, mask=row < length)
    tl.store(distance_ptr + own, distance / mass, mask=row < length)
    out_at = _head(out_ptr, batch, head, out_b, out_h) + row[:, None] * out_t + dv[None, :]
    out = (out / mass[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_at, out, mask=(row < length)[:, None] & (dv < V)[None, :])


@triton.jit
def _waad_kernel(
    q_ptr, k_ptr, lse_ptr, first_ptr, last_ptr, waad_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, heads, group, length, window, scale,
    D: tl.constexpr, D_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (row blocks, B * H). waad (B, H, T) in tokens, for the blocks that hold rows first - 1 .. last of the
    sequence's response; what it held before elsewhere.

    Rows sum to one: sum_s A min(t-s, W) = sum_{t-s<W} A (t-s) + W (1 - sum_{t-s<W} A), the latter for rows t >= W."""
    block = tl.program_id(0)
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    begin = block * ROWS
    if (begin + ROWS >= tl.load(first_ptr + batch)) & (begin <= tl.load(last_ptr + batch)):
        row, d = begin + tl.arange(0, ROWS), tl.arange(0, D_PAD)
        q_at = _head(q_ptr, batch, head, q_b, q_h) + row[:, None] * q_t + d[None, :]
        q = tl.load(q_at, mask=(row < length)[:, None] & (d < D)[None, :], other=0.0)
        keys = _head(k_ptr, batch, head // group, k_b, k_h)
        own = tl.program_id(1).to(tl.int64) * length + row
        lse = tl.load(lse_ptr + own, mask=row < length, other=0.0) * 1.4426950408889634
        near, mass = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
        reach = tl.maximum(begin - window + 1, 0) // KEYS * KEYS
        for start in range(reach, tl.minimum(begin + ROWS, length), KEYS):
            column = start + tl.arange(0, KEYS)
            k_at = keys + column[None, :] * k_t + d[:, None]
            k = tl.load(k_at, mask=(column < length)[None, :] & (d < D)[:, None], other=0.0)
            weight = tl.exp2(_powers(q, k, scale, PRECISION) - lse[:, None])
            away = row[:, None] - column[None, :]
            # `where`, not a product: above the diagonal exp2() may be inf
            weight = tl.where((away >= 0) & (away < window), weight, 0.0)
            near += tl.sum(weight * away.to(tl.float32), 1)
            mass += tl.sum(weight, 1)
        waad = near + tl.where(row < window, 0.0, window * (1.0 - mass))
        tl.store(waad_ptr + own, waad, mask=row < length)


@triton.jit
def _fai_kernel(
    q_ptr, k_ptr, lse_ptr, response_ptr, first_ptr, last_ptr, received_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, heads, group, length, low, high, scale,
    D: tl.constexpr, D_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks, B * H). received (B, H, T): the sum over the response rows s + low .. s + high of A[t, s]."""
    begin = tl.program_id(0) * KEYS
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    column, d = begin + tl.arange(0, KEYS), tl.arange(0, D_PAD)
    k_at = _head(k_ptr, batch, head // group, k_b, k_h) + column[None, :] * k_t + d[:, None]
    k = tl.load(k_at, mask=(column < length)[None, :] & (d < D)[:, None], other=0.0)
    queries = _head(q_ptr, batch, head, q_b, q_h)
    one_head = tl.program_id(1).to(tl.int64) * length
    total = tl.zeros([KEYS], tl.float32)
    # rows that some column of the block and the response reach, from a multiple of ROWS on
    first = tl.maximum(begin + low, tl.load(first_ptr + batch)) // ROWS * ROWS
    end = tl.minimum(begin + KEYS - 1 + high, tl.load(last_ptr + batch)) + 1
    for start in range(first, end, ROWS):
        row = start + tl.arange(0, ROWS)
        there = row < length
        q_at = queries + row[:, None] * q_t + d[None, :]
        q = tl.load(q_at, mask=there[:, None] & (d < D)[None, :], other=0.0)
        lse = tl.load(lse_ptr + one_head + row, mask=there, other=0.0) * 1.4426950408889634
        response = tl.load(response_ptr + batch.to(tl.int64) * length + row, mask=there, other=0) != 0
        weight = tl.exp2(_powers(q, k, scale, PRECISION) - lse[:, None])
        away = row[:, None] - column[None, :]
        total += tl.sum(tl.where((away >= low) & (away <= high) & response[:, None], weight, 0.0), 0)
    tl.store(received_ptr + one_head + column, total, mask=column < length)


# ------------------------------------------------------------------------------------------ functions


def attention_and_span(
    query: Float[Tensor, "B H T D"], key: Float[Tensor, "B G T D"], value: Float[Tensor, "B G T Dv"], scale: float
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"], Float[Tensor, "B H T"]]:
    """Attention output (value's dtype), log-sum-exp (nats), and sum_s A[t, s] (t - s) of each row (tokens); the latter
    two in float32. query, key and value have one dtype."""
    query, key, value = map(_rows_of_numbers, (query, key, value))
    batch, heads, length, dim = query.shape
    width = value.shape[3]
    # in memory (B, T, H, Dv): what the model makes of it next is then no copy
    out = value.new_empty(batch, length, heads, width).transpose(1, 2)
    lse, distance = (torch.empty(batch, heads, length, dtype=torch.float32, device=query.device) for _ in range(2))
    tile = tiles(query.dtype, max(dim, width))
    _forward_kernel[(triton.cdiv(length, tile.rows), batch * heads)](
        query, key, value, out, lse, distance,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *out.stride()[:3],
        heads, heads // key.shape[1], length, scale * _LOG2E,
        D=dim, V=width, V_PAD=_padded(width), **_options(query, tile),
    )  # fmt: skip
    return out, lse, distance


def waad_rows(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    lse: Float[Tensor, "B H T"],
    scale: float,
    response: Bool[Tensor, "B T"],
    window: int,
) -> Float[Tensor, "B H T"]:
    """WAAD of each row (Eq. 9) in tokens, from the row before a sequence's response to its last; NaN far from it."""
    query, key = map(_rows_of_numbers, (query, key))
    batch, heads, length, dim = query.shape
    waad = torch.full_like(lse, float("nan"))
    tile = tiles(query.dtype, dim)
    _waad_kernel[(triton.cdiv(length, tile.rows), batch * heads)](
        query, key, lse, *_ends(response), waad, *query.stride()[:3], *key.stride()[:3],
        heads, heads // key.shape[1], length, min(window, length), scale * _LOG2E, D=dim, **_options(query, tile),
    )  # fmt: skip
    return waad


def received_attention(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    lse: Float[Tensor, "B H T"],
    scale: float,
    response: Bool[Tensor, "B T"],
    horizons: Sequence[Horizon],
) -> list[Float[Tensor, "B H T"]]:
    """For each horizon, the sum of A[t, s] over the response rows s + H_lo <= t <= s + H_hi: Eq. 10 before its mean.

    In attention weights: between 0 and the number of rows.
    """
    query, key = map(_rows_of_numbers, (query, key))
    batch, heads, length, dim = query.shape
    tile, ends = tiles(query.dtype, dim), _ends(response)
    totals = []
    for low, high in horizons:
        totals.append(torch.empty_like(lse))
        _fai_kernel[(triton.cdiv(length, tile.keys), batch * heads)](
            query, key, lse, response, *ends, totals[-1], *query.stride()[:3], *key.stride()[:3],
            heads, heads // key.shape[1], length, low, length if high is None else min(high, length),
            scale * _LOG2E, D=dim, **_options(query, tile),
        )  # fmt: skip
    return totals


def _rows_of_numbers(x: Tensor) -> Tensor:
    """A tensor whose last axis is contiguous, as the kernels read it; nearly always `x` itself."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _ends(response: Bool[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
    """First and last response position of each sequence, (B,) int32 each; found without waiting for the GPU."""
    position = torch.arange(response.shape[1], dtype=torch.int32, device=response.device)
    first = torch.where(response, position, response.shape[1]).amin(1)
    return first, torch.where(response, position, -1).amax(1)


def _padded(dim: int) -> int:
    """A matrix product takes powers of two, at least 16."""
    return max(16, triton.next_power_of_2(dim))


def _options(query: Tensor, tile: Tiles) -> dict:
    return {
        "D_PAD": _padded(query.shape[3]),
        "ROWS": tile.rows,
        "KEYS": tile.keys,
        "PRECISION": "ieee" if query.dtype == torch.float32 else "tf32",  # of no account for shorter floats
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
