"""Part `kernels` of the GPU check: what reads attention without maps, against dense maps in float64.

    kernels   the three Triton kernels, of plain attention: heads of 64, 128 and 256 numbers, shared or not
    tiles     every other attention (windows, chunks, soft caps, sinks, biases), which goes through matrix products
    signals   whole models of four kinds, streaming against eager maps

An error is given as a share of its bound, so 1 is the most that is allowed. Bounds are those of
tests/signals/test_triton.py and test_streaming.py: WAAD 1e-4 tokens, FAI 1e-6, spans and distances 1e-5; the output as
exact as its number format. Inputs in bfloat16 are read as they are by the kernels and widened before the tiles: the
statistics are held to the same bounds in both formats.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention_rhythm.errors import ReproError
from attention_rhythm.signals import dense, streaming
from attention_rhythm.signals.attention import Attention
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from benchmarks.record import make_claim

HORIZONS = ((0, None), (10, 100), (3, 3), (7, None), (200, 300))
STEP = {torch.float32: None, torch.bfloat16: 2**-8}  # between two neighbours at 1; float32 has bounds of its own
BOUNDS = {"lse": (2e-5, 1e-6), "distance": (1e-5, 1e-5), "waad": (1e-4, 0.0), "fai": (1e-6, 0.0)}  # absolute, relative


class Mismatch(ReproError):
    """A value that is undefined on one side alone."""


@dataclass(frozen=True)
class Sizes:
    """How large the cases are: those of a GPU, or those that an interpreter can do."""

    dims: tuple[int, ...] = (64, 128, 256)
    heads: int = 8  # of queries
    batch: int = 2
    lengths: tuple[int, ...] = (17, 1000)
    long: int = 4096  # of one sequence, at heads of 128
    far: int = 32_768  # of uniform attention
    layers: int = 4  # of the models


SMALL = Sizes(heads=4, batch=1, lengths=(17, 40), long=70, far=200, layers=2)


@dataclass(frozen=True)
class Case:
    """One comparison. `rule`: what makes the attention more than plain, by name; None: the kernels' own."""

    dtype: torch.dtype
    dim: int
    heads: int
    groups: int  # heads of keys
    batch: int
    length: int
    width: int | None = None  # of a value; None: dim
    window: int = 10  # W of WAAD
    rule: str | None = None

    @property
    def name(self) -> str:
        """For a person."""
        kind = f"{self.rule or 'plain'}, {str(self.dtype).removeprefix('torch.')}"
        heads = f"heads {self.heads}/{self.groups} of {self.dim}" + (f" and {self.width}" if self.width else "")
        return f"{kind}, {heads}, {self.batch} x {self.length}, W {self.window}"


# -------------------------------------------------------------------------------------- the comparison


def drawn(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, and a response mask (B, T): q is spread out, so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(case.length * case.dim)
    batch, length = case.batch, case.length
    sizes = ((case.heads, case.dim, 2.0), (case.groups, case.dim, 1.0), (case.groups, case.width or case.dim, 1.0))
    q, k, v = (
        (torch.randn(batch, heads, length, dim, generator=generator) * spread).to(device, case.dtype)
        for heads, dim, spread in sizes
    )
    starts = torch.arange(batch)[:, None] * length // (batch + 1)  # every sequence has a response of its own
    position = torch.arange(length)
    response = (position >= starts) & (position < length - starts // 2)
    return q, k, v, response.to(device)


def attention_of(case: Case, device: str) -> Attention:
    """The description of a case's attention; windows and chunks are a third of the length."""
    third = max(case.length // 3, 1)
    generator = torch.Generator().manual_seed(1)
    sinks = torch.randn(case.heads, generator=generator).to(device)
    bias = torch.randn(1, case.heads, case.length, case.length, generator=generator).to(device)
    rules: dict[str | None, dict[str, Any]] = {
        None: {},
        "window": {"window": third},
        "chunk": {"chunk": third},
        "soft cap": {"softcap": 5.0},
        "sinks": {"sinks": sinks},
        "bias": {"bias": bias},
        "window, soft cap and sinks": {"window": third, "softcap": 5.0, "sinks": sinks},
    }
    return Attention(case.dim**-0.5, **rules[case.rule])


RULES = ("window", "chunk", "soft cap", "sinks", "bias", "window, soft cap and sinks")


def dense_maps(q: Tensor, k: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
    """(B, H, T, T) attention weights and (B, H, T) log-sum-exp (nats), in float64, by the definition alone."""
    q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.mT * attention.scale  # (B, H, T, T)
    if attention.softcap is not None:
        scores = (scores / attention.softcap).tanh() * attention.softcap
    if attention.bias is not None:
        scores = scores + attention.bias.double()
    s = torch.arange(q.shape[2], device=q.device)
    t = s[:, None]
    seen = s <= t
    if attention.window is not None:
        seen = seen & (t - s < attention.window)
    if attention.chunk is not None:
        seen = seen & (t // attention.chunk == s // attention.chunk)
    scores = scores.masked_fill(~seen, -torch.inf)
    lse = scores.logsumexp(-1)  # (B, H, T)
    if attention.sinks is not None:
        lse = torch.logaddexp(lse, attention.sinks.double()[:, None])
    return (scores - lse[..., None]).exp(), lse


Statistics = tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]  # output, lse, distance, WAAD, FAI of each horizon


def by_kernels(kernels: ModuleType, case: Case, q: Tensor, k: Tensor, v: Tensor, response: Tensor) -> Statistics:
    """What the Triton kernels say."""
    scale = case.dim**-0.5
    out, lse, distance = kernels.attention_and_span(q, k, v, scale)
    waad = kernels.waad_rows(q, k, lse, scale, response, case.window)
    received = kernels.received_attention(q, k, lse, scale, response, HORIZONS)
    fai = [streaming.mean_received(total, response, h) for total, h in zip(received, HORIZONS, strict=True)]
    return out, lse, distance, waad, fai


def by_tiles(attention: Attention, case: Case, q: Tensor, k: Tensor, v: Tensor, response: Tensor) -> Statistics:
    """What the path of every other attention says, which is handed float32 as the recorder hands it."""
    q, k, v = q.float(), k.float(), v.float()
    out, lse, distance, rho = streaming.read_attention(q, k, v, attention)
    waad, fai = streaming.band_statistics(q, k, lse, attention, response, case.window, HORIZONS, rho)
    return out, lse, distance, waad, fai


def share_of_bound(found: Tensor, exact: Tensor, absolute: float, relative: float) -> float:
    """The largest |found - exact| / (absolute + relative |exact|). Mismatch: NaN in other places."""
    found, exact = found.double(), exact.double()
    if not torch.equal(found.isnan(), exact.isnan()):
        raise Mismatch("undefined (NaN) in other places than the dense maps say")
    share = (found - exact).abs() / (absolute + relative * exact.abs())
    return float(share.nan_to_num(0.0).max())


def compare(case: Case, device: str, kernels: ModuleType | None) -> dict[str, float]:
    """For each statistic its largest error as a share of its bound. Mismatch: see `share_of_bound`."""
    q, k, v, response = drawn(case, device)
    attention = attention_of(case, device)
    if case.rule is None:
        assert kernels is not None
        out, lse, distance, waad, fai = by_kernels(kernels, case, q, k, v, response)
        step = STEP[case.dtype]
    else:
        out, lse, distance, waad, fai = by_tiles(attention, case, q, k, v, response)
        step = None
    maps, exact_lse = dense_maps(q, k, attention)
    values = v.double().repeat_interleave(case.heads // case.groups, 1)
    position = torch.arange(case.length, device=device)
    rows = response | response.roll(-1, 1)  # the row before the first one, too: it predicted the first token
    rows[:, -1] = response[:, -1]
    rows = rows[:, None].expand_as(waad)
    of_output = (1e-5, 1e-5) if step is None else (4 * step, 2 * step)
    exact_distance = (maps * (position[:, None] - position)).sum(-1)
    fai_shares = [
        share_of_bound(one, dense.fai(maps[:, None], response, horizon)[:, 0], *BOUNDS["fai"])
        for one, horizon in zip(fai, HORIZONS, strict=True)
    ]
    return {
        "output": share_of_bound(out, maps @ values, *of_output),
        "lse": share_of_bound(lse, exact_lse, *BOUNDS["lse"]),
        "distance": share_of_bound(distance, exact_distance, *BOUNDS["distance"]),
        "waad": share_of_bound(waad[rows], dense.waad(maps, case.window)[rows], *BOUNDS["waad"]),
        "fai": max(fai_shares),
    }


# ------------------------------------------------------------------------------------------- the cases


def kernel_cases(sizes: Sizes) -> list[Case]:
    """Of the Triton kernels."""
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        for dim in sizes.dims:
            shared = Case(dtype, dim, sizes.heads, max(sizes.heads // 4, 1), sizes.batch, sizes.lengths[0])
            cases += [replace(shared, length=length) for length in sizes.lengths]
        middle = replace(shared, dim=128, length=sizes.lengths[-1])
        cases += [replace(middle, groups=groups) for groups in (sizes.heads, 1)]
        cases += [replace(middle, window=window) for window in (1, 64, 2000)]
        cases += [replace(middle, batch=1, length=sizes.long), replace(middle, dim=192, width=128)]
    return cases


def tile_cases(sizes: Sizes) -> list[Case]:
    """Of what is more than plain attention."""
    return [
        Case(dtype, dim, sizes.heads, max(sizes.heads // 4, 1), sizes.batch, sizes.lengths[-1], rule=rule)
        for dtype in (torch.float32, torch.bfloat16)
        for rule in RULES
        for dim in sizes.dims[:2]
    ]


def far_keys(kernels: ModuleType, length: int, device: str) -> float:
    """Uniform attention: the mean distance of row t is t / 2, exactly. The error as a share of its bound."""
    k = torch.randn(1, 1, length, 64, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    _, _, distance = kernels.attention_and_span(torch.zeros_like(k), k, k, 1.0)
    return share_of_bound(distance[0, 0], torch.arange(length, device=device) / 2, 1e-3, 1e-5)


def repeats_differ(kernels: ModuleType, case: Case, device: str) -> int:
    """How many numbers of a second call are not the bits of the first."""
    inputs = drawn(case, device)
    one, other = ([*s[:4], *s[4]] for s in (by_kernels(kernels, case, *inputs) for _ in range(2)))
    return sum(int((a.nan_to_num(-1) != b.nan_to_num(-1)).sum()) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------ the models


def tiny_models(layers: int) -> dict[str, Callable[[], torch.nn.Module]]:
    """Models of four kinds: plain attention (two), sliding windows, windows with soft caps."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    sizes: dict[str, Any] = {
        "vocab_size": 997, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=64)),
        "mistral, windows": lambda: MistralForCausalLM(MistralConfig(**sizes, sliding_window=20)),
        "gemma2, windows and soft caps": lambda: Gemma2ForCausalLM(
            Gemma2Config(**sizes, head_dim=64, sliding_window=20, attn_logit_softcapping=5.0)
        ),
    }


@torch.no_grad()
def compare_model(model: torch.nn.Module, device: str) -> dict[str, float]:
    """Streaming signals against those of eager maps in float32, on padded sequences, as shares of their bounds."""
    for name, parameter in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name:
            parameter.mul_(8)  # attention far from uniform
    model = model.to(device).eval()
    lengths = torch.tensor([[5, 40], [1, 7], [12, 60]], device=device)  # prompt, response
    position = torch.arange(int(lengths.sum(1).max()), device=device)
    mask = position < lengths.sum(1, keepdim=True)  # (B, N), padded on the right
    response = mask & (position >= lengths[:, :1])
    ids = torch.randint(1, 997, mask.shape, generator=torch.Generator().manual_seed(0)).to(device)
    config = SignalConfig(horizon=(2, 9), layers="all")
    ours, exact = (attention_signals(model, ids, mask, response, config, method=m) for m in ("streaming", "dense"))
    if not (torch.equal(ours.local_heads, exact.local_heads) and torch.equal(ours.global_heads, exact.global_heads)):
        raise Mismatch("other heads are local or global than the dense maps say")
    return {
        "waad": share_of_bound(ours.waad, exact.waad, *BOUNDS["waad"]),
        "fai": share_of_bound(ours.fai, exact.fai, *BOUNDS["fai"]),
        "span": share_of_bound(ours.head_span, exact.head_span, 0.0, 1e-5),
    }


# -------------------------------------------------------------------------------------------- the part


def check(device: str, deadline: float, sizes: Sizes = Sizes()) -> Iterator[dict[str, Any]]:
    """What each case has found: {"case": ...} rows and {"claim": ...} claims, as they come to be.

    Cases after the deadline (on the clock of `time.monotonic`) are not run; a case that fails fails alone. The kernels
    come last: they have to be compiled, and a fault of theirs would take the GPU from what comes after.
    """
    yield from _cases("tiles_equal_dense", tile_cases(sizes), device, deadline, None)
    for name, make in tiny_models(sizes.layers).items():
        torch.manual_seed(0)
        yield from _one(
            "signals_equal_dense",
            lambda make=make: max(compare_model(make(), device).values()), 1.0, deadline, model=name,
        )  # fmt: skip
    if importlib.util.find_spec("triton") is None:
        why = "Triton is not installed"
        yield {"claim": "kernels_equal_dense", "value": None, "held": None if device == "cpu" else False, "why": why}
    else:
        from attention_rhythm.signals import streaming_triton

        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if interpreted:
            teach_the_interpreter_bfloat16()
        else:
            chosen = streaming.triton_kernels(torch.device(device)) is streaming_triton
            yield make_claim("kernels_chosen_on_a_gpu", int(chosen), ">=", 1)
        yield from _cases("kernels_equal_dense", kernel_cases(sizes), device, deadline, streaming_triton)
        case = Case(torch.bfloat16, 128, sizes.heads, max(sizes.heads // 4, 1), sizes.batch, sizes.lengths[-1])
        yield from _one("kernels_repeat_bits", lambda: repeats_differ(streaming_triton, case, device), 0, deadline)
        yield from _one("kernels_far_keys", lambda: far_keys(streaming_triton, sizes.far, device), 1.0, deadline)


def _cases(
    claim: str, cases: list[Case], device: str, deadline: float, kernels: ModuleType | None
) -> Iterator[dict[str, Any]]:
    """A row for each case, and a claim for each number format and size of heads (of tiles: for each rule)."""
    groups: dict[tuple[str, Any], list[Case]] = {}
    for case in cases:
        key = ("heads_of", case.dim) if case.rule is None else ("rule", case.rule)
        groups.setdefault((str(case.dtype).removeprefix("torch."), key), []).append(case)
    for (dtype, (name, value)), own in groups.items():
        worst, why, failed = [], None, False
        for case in own:
            if time.monotonic() > deadline:
                why = why or "no time left"
                continue
            try:
                shares = compare(case, device, kernels)
            except Exception as error:  # whatever it is, the other cases go on
                yield {"case": case.name, "error": in_one_line(error)}
                why, failed = f"{case.name}: {in_one_line(error)}", failed or counts(error)
                worst.append(None)
            else:
                yield {"case": case.name, "shares_of_bounds": shares}
                worst.append(max(shares.values()))
        about = {"dtype": dtype, name: value}
        if None in worst:
            held = False if failed else None
            yield {"claim": claim, **about, "value": None, "sense": "<=", "bound": 1.0, "held": held, "why": why}
        else:
            found = make_claim(claim, max(worst, default=None), "<=", 1.0, **about)
            yield found | ({"why": why} if why else {})


def _one(
    claim: str, value: Callable[[], float], bound: float, deadline: float, **about: Any
) -> Iterator[dict[str, Any]]:
    if time.monotonic() > deadline:
        yield make_claim(claim, None, "<=", bound, **about) | {"why": "no time left"}
        return
    try:
        yield make_claim(claim, value(), "<=", bound, **about)
    except Exception as error:  # as above
        held = False if counts(error) else None
        yield make_claim(claim, None, "<=", bound, **about) | {"held": held, "why": in_one_line(error)}


def counts(error: Exception) -> bool:
    """Whether an error is one of what is checked: Triton's interpreter has errors of its own, as with a newer numpy."""
    return type(error).__name__ != "InterpreterError"


def in_one_line(error: BaseException) -> str:
    """Type and first line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def teach_the_interpreter_bfloat16() -> None:
    """It keeps bfloat16 as the bits of whole numbers, and its matrix product (of Triton 3.9) multiplies those."""
    from triton.runtime import interpreter

    create_dot = interpreter.InterpreterBuilder.create_dot

    def widened(x):
        if x.dtype.scalar != interpreter.tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)

    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: create_dot(
        self, widened(a), widened(b), *rest
    )
