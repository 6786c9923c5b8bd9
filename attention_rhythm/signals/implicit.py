"""Implicit attention: the maps of mixers that have no attention matrix, and WAAD and FAI read from them.

State-space and linear-attention mixers (Mamba-1, Mamba-2, gated DeltaNet, Kimi's delta attention, lightning attention)
are linear in their values: output = A V, with a lower triangular A that the other inputs decide (Ali et al. 2024,
arXiv 2403.01590). Column s of A is the output for a value that is one at token s and zero elsewhere, so transformers'
own function, called with blocks of the identity as its values, gives A exactly: delta rule, decays and skip connection
included.

A is no attention: entries may be negative, rows do not sum to one. The signals are read from *|A| normalised by row*,
|A[t, s]| / sum_u |A[t, u]|. A row of zeros stays one. "Head" is whatever shares a map: a head, or in Mamba-1 a channel.

Memory is linear in N: columns come a block at a time, rows are summed up. Time is quadratic.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attention_rhythm.errors import NotFinite
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.heads import select_layers
from attention_rhythm.signals.reading import HeadSets, SignalConfig, Signals, check_masks, combine_heads, right_padding
from attention_rhythm.signals.streaming import HeadStatistics, Horizon

_ELEMENTS = 2**23  # of a block of columns (B, H, N, columns), the state of its mixer included
_DEFAULTS = SignalConfig()


@runtime_checkable
class ImplicitMap(Protocol):
    """A of one layer, (B, H, N, N), a block of columns at a time."""

    heads: int
    elements: int  # that one column of one row takes, over the batch, all heads and their state

    def columns(self, first: int, last: int, end: int) -> Float[Tensor, "B H rows columns"]:
        """A[:, :, first:end, first:last], weights without a unit, in float32: the rows above are zero."""
        ...


@dataclass(frozen=True)
class _Function:
    """A function of transformers that is linear in one of its arguments."""

    value: str  # the argument in which it is linear
    tokens: int  # axis of the tokens, in every argument named below
    along: tuple[str, ...]  # the arguments that have one entry a token


_DELTA = _Function("value", 1, ("query", "key", "value", "g", "beta"))
_FUNCTIONS = {
    "mamba_selective_scan": _Function("hidden_states", 2, ("hidden_states", "dt", "B", "C", "z")),
    "mamba2_chunk_scan": _Function("hidden_states", 1, ("hidden_states", "dt", "B", "C")),
    "torch_chunk_gated_delta_rule": _DELTA,
    "chunk_kimi_delta_attention": _DELTA,
}
_LIGHTNING = "MiniMaxLightningAttention"  # has no function of its own: its forward is one


# --- maps ----------------------------------------------------------------------------------------------------------


class FunctionMap:
    """The map of a mixer that hands its values to one of `_FUNCTIONS`, from the arguments of that call."""

    def __init__(self, name: str, function: Callable[..., Any], arguments: dict[str, Any]):
        self.kind, self.function = _FUNCTIONS[name], function
        self.arguments = {
            name: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in arguments.items()
        }
        self.by_channel = self.kind.tokens == 2  # values (B, channels, N), each channel with a map of its own
        self.value: Tensor = self.arguments[self.kind.value]  # (B, N, H, D), by channel (B, H, N)
        self.heads = self.value.shape[1 if self.by_channel else 2]
        state = self.arguments["A"].shape[-1] if self.by_channel else 1
        self.elements = len(self.value) * self.heads * state

    def apply(self, value: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """transformers' own function on rows first to end, with other values of those rows.

        value: (B, rows, H, D), or by channel (B * k, H, rows): k values a sequence, side by side.
        """
        axis, kind = self.kind.tokens, self.kind
        along = {name: x for name, x in self.arguments.items() if name in kind.along and x is not None}
        along = {name: x.narrow(axis, first, (end or x.shape[axis]) - first) for name, x in along.items()}
        repeat = len(value) // len(self.value)
        if repeat > 1:
            along = {name: x.repeat_interleave(repeat, 0) for name, x in along.items()}
        out = self.function(**self.arguments | along | {kind.value: value})
        return out[0] if isinstance(out, tuple) else out

    def columns(self, first: int, last: int, end: int) -> Float[Tensor, "B H rows columns"]:
        """A[:, :, first:end, first:last] (no unit), from values that are the identity on those columns."""
        batch, width = len(self.value), last - first
        identity = torch.eye(end - first, width, device=self.value.device)  # (rows, columns)
        if not self.by_channel:
            value = identity[None, :, None].expand(batch, -1, self.heads, -1).contiguous()  # (B, rows, H, columns)
            return self.apply(value, first, end).permute(0, 2, 1, 3)
        value = identity.T.repeat(batch, 1)[:, None].expand(-1, self.heads, -1)  # (B * columns, H, rows)
        return self.apply(value, first, end).unflatten(0, (batch, width)).permute(0, 2, 3, 1)


class HeadByHead:
    """The map of a mixer that calls its function once for each group of heads (Zamba)."""

    def __init__(self, parts: list[FunctionMap]):
        self.parts = parts
        self.heads, self.elements = sum(part.heads for part in parts), sum(part.elements for part in parts)

    def columns(self, first: int, last: int, end: int) -> Float[Tensor, "B H rows columns"]:
        """A[:, :, first:end, first:last] (no unit), the heads in the order of the calls."""
        return torch.cat([part.columns(first, last, end) for part in self.parts], 1)


class _BeforeNorm(Exception):
    """Ends lightning attention's forward at its norm; holds what the norm was handed."""

    def __init__(self, out: Tensor):
        super().__init__("lightning attention has reached its norm")
        self.out = out


class LightningMap:
    """The map of MiniMax's lightning attention, whose forward holds everything: its values come out of `act_fn`, what
    the map makes of them goes into `norm`, where `_BeforeNorm` ends it. A copy of the mixer has these two replaced; its
    weights are shared."""

    def __init__(self, mixer: Any, arguments: dict[str, Any]):
        self.mixer, self.arguments = mixer, arguments
        hidden = arguments["hidden_states"]
        self.batch, self.heads, self.size = len(hidden), mixer.num_attention_heads, mixer.head_dim
        self.elements = self.batch * self.heads

    def apply(self, value: Float[Tensor, "B rows H D"], first: int = 0) -> Float[Tensor, "B rows H D"]:
        """The mixer's output before its norm (in the unit of `value`), on rows `first` on, with other values there.

        UnsupportedAttention: the mixer's forward did not reach its norm.
        """
        hidden = self.arguments["hidden_states"][:, first : first + value.shape[1]]

        def with_values(qkv: Float[Tensor, "B rows all"]) -> Float[Tensor, "B rows all"]:
            parts = self.mixer.act_fn(qkv).float().unflatten(-1, (self.heads, 3 * self.size))  # (B, rows, H, 3 D)
            return torch.cat([parts[..., : 2 * self.size], value], -1).flatten(-2)

        def end(out: Float[Tensor, "B rows all"]) -> Tensor:
            raise _BeforeNorm(out)

        probe = copy.copy(self.mixer)
        probe._modules = {
            name: module for name, module in self.mixer._modules.items() if name not in ("act_fn", "norm")
        }
        probe.__dict__ |= {"act_fn": with_values, "norm": end}
        try:
            type(probe).forward(probe, hidden, position_embeddings=None, attention_mask=None)
        except _BeforeNorm as reached:
            return reached.out.unflatten(-1, (self.heads, self.size))
        raise UnsupportedAttention(f"{_LIGHTNING} did not reach its norm: use the pinned version of transformers")

    def columns(self, first: int, last: int, end: int) -> Float[Tensor, "B H rows columns"]:
        """A[:, :, first:end, first:last] (no unit): as many columns at a time as a head has dimensions."""
        identity = torch.eye(end - first, -(-(last - first) // self.size) * self.size)  # (rows, columns, rounded up)
        parts = []
        for part in identity.to(self.arguments["hidden_states"].device).split(self.size, 1):  # (rows, D)
            value = part[None, :, None].expand(self.batch, -1, self.heads, -1)  # (B, rows, H, D)
            parts.append(self.apply(value, first).permute(0, 2, 1, 3))
        return torch.cat(parts, -1)[..., : last - first]


# --- a model's mixers ----------------------------------------------------------------------------------------------


def implicit_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The model's own numbers of the layers that have an implicit map.

    UnsupportedAttention: there are none, or two mixers in one layer.
    """
    return tuple(_mixers(model))


def _mixers(model: PreTrainedModel) -> dict[int, nn.Module]:
    """Mixers by layer number, ascending."""
    found = [(_number(m), m) for m in model.modules() if hasattr(m, "layer_idx") and _linear_part(m)]
    kind = model.config.get_text_config().model_type
    if not found:
        raise UnsupportedAttention(f"{kind} has no mixer with an implicit map: known are {', '.join(_known())}")
    if len(dict(found)) < len(found):
        raise UnsupportedAttention(f"{kind} has two mixers with an implicit map in one layer: which to read is open")
    return dict(sorted(found, key=lambda pair: pair[0]))


def _number(mixer: nn.Module) -> int:
    number = mixer.layer_idx
    assert isinstance(number, int)
    return number


def _known() -> tuple[str, ...]:
    return (*_FUNCTIONS, _LIGHTNING)


def _linear_part(module: nn.Module) -> str | None:
    """The name of what is linear in the values: a function that the module's forward calls, or the module itself."""
    if type(module).__name__ == _LIGHTNING:
        return _LIGHTNING
    names = inspect.unwrap(type(module).forward).__code__.co_names
    return next((name for name in _FUNCTIONS if name in names), None)


def _map_of(mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ImplicitMap:
    """The map that a mixer applies to its values when it is called with these arguments."""
    name = _linear_part(mixer)
    forward = inspect.unwrap(type(mixer).forward)
    if name == _LIGHTNING:
        return LightningMap(mixer, inspect.signature(forward).bind(mixer, *args, **kwargs).arguments)
    assert name is not None
    function = inspect.unwrap(getattr(sys.modules[type(mixer).__module__], name))  # not a kernel that stands for it
    signature = inspect.signature(function)
    parts: list[FunctionMap] = []

    def called(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        parts.append(FunctionMap(name, function, {key: x for key, x in bound.items() if key != "kwargs"}))
        return function(*args, **kwargs)

    # The mixer's own forward: same code, one global replaced, so that nothing is patched that others see.
    assert isinstance(forward, FunctionType)
    listened = FunctionType(
        forward.__code__, forward.__globals__ | {name: called}, None, forward.__defaults__, forward.__closure__
    )
    listened.__kwdefaults__ = forward.__kwdefaults__
    listened(mixer, *args, **kwargs)
    if not parts:
        raise UnsupportedAttention(f"{type(mixer).__name__} did not call {name}: call model.eval() first")
    return parts[0] if len(parts) == 1 else HeadByHead(parts)


class _LastLayerRead(Exception):
    """Ends a forward pass whose remaining layers nobody needs."""


@contextmanager
def _reading(model: PreTrainedModel, layers: Sequence[int], read: Callable[[int, ImplicitMap], None]) -> Iterator[None]:
    """Hand each layer's map to `read` as this thread's forward pass comes by; the pass ends after the last.

    Inside, `_LastLayerRead` ends the pass.
    """
    mixers, owner = _mixers(model), threading.get_ident()
    if missing := [layer for layer in layers if layer not in mixers]:
        raise UnsupportedAttention(f"layers {missing} have no implicit map; those that have: {list(mixers)}")

    def hook(mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != owner:
            return
        read(_number(mixer), _map_of(mixer, args, kwargs))
        if _number(mixer) == max(layers):
            raise _LastLayerRead

    with ExitStack() as hooks:
        for layer in layers:
            handle = mixers[layer].register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        with suppress(_LastLayerRead):
            yield


# --- signals -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def implicit_maps(
    model: PreTrainedModel, input_ids: Int[Tensor, "B N"], layers: Sequence[int]
) -> Float[Tensor, "B L H N N"]:
    """A[l, h][t, s] itself (no unit), signed and not normalised, of right-padded sequences: for small N.

    UnsupportedAttention: a layer without an implicit map.
    """
    maps: dict[int, Tensor] = {}
    length = input_ids.shape[1]

    def read(layer: int, of: ImplicitMap) -> None:
        maps[layer] = of.columns(0, length, length)

    with _reading(model, layers, read):
        model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    return torch.stack([maps[layer] for layer in layers], 1)


@torch.no_grad()
def head_statistics(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    layers: Sequence[int],
    window: int,
    horizons: Sequence[Horizon],
) -> HeadStatistics:
    """Eqs. 7, 9 and 10 of every head on |A| normalised by row, of right-padded sequences.

    Units: span and WAAD in tokens, FAI a mean normalised weight.

    UnsupportedAttention: a layer without an implicit map. NotFinite: NaN or inf in a map.
    """
    read: dict[int, tuple[Tensor, Tensor, list[Tensor]]] = {}

    def keep(layer: int, of: ImplicitMap) -> None:
        read[layer] = map_statistics(of, response, window, horizons)

    with _reading(model, layers, keep):
        model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    spans, waads, fais = zip(*(read[layer] for layer in layers), strict=True)
    fai = tuple(torch.stack(f, 1) for f in zip(*fais, strict=True))  # one for each horizon
    return HeadStatistics(tuple(layers), torch.stack(spans, 1), torch.stack(waads, 1), fai)


def map_statistics(
    of: ImplicitMap, response: Bool[Tensor, "B N"], window: int, horizons: Sequence[Horizon]
) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H N"], list[Float[Tensor, "B H N"]]]:
    """Span (tokens), WAAD of each row (tokens) and FAI of each column for each horizon (a mean normalised weight).

    Two passes over the columns: the second knows what the rows sum to. NotFinite: NaN or inf in the map.
    """
    batch, length = response.shape
    end = int(response.any(0).nonzero()[-1]) + 1  # rows after the last response token decide nothing
    width = min(end, max(1, _ELEMENTS // (of.elements * end)))
    position = torch.arange(length, device=response.device)

    @lru_cache(maxsize=1)  # where one block is all, the second pass has it already
    def block(first: int, stop: int) -> tuple[Tensor, Tensor]:
        """|A| (B, H, rows, columns) of rows first to stop, and how far back each entry looks (rows, columns)."""
        last = min(first + width, end)
        return of.columns(first, last, stop).abs(), position[first:stop, None] - position[first:last]

    total, near, far = torch.zeros(3, batch, of.heads, length, device=response.device)  # sums over s, by row
    for first in range(0, end, width):
        weights, distance = block(first, end)
        distance = distance.clamp(min=0).float()
        total[..., first:end] += weights.sum(-1)
        far[..., first:end] += torch.einsum("bhts,ts->bht", weights, distance)
        near[..., first:end] += torch.einsum("bhts,ts->bht", weights, distance.clamp(max=window))
    if not bool(torch.isfinite(total).all()):
        raise NotFinite("NaN or inf in an implicit map: the weights or the number format are broken")
    total = total.clamp(min=torch.finfo(total.dtype).tiny)  # a row of zeros stays one

    received = [torch.full_like(total, float("nan")) for _ in horizons]
    reach = max(length if high is None else high for _, high in horizons)
    for first in range(0, end, width):
        stop = min(end, first + width + reach)
        weights, distance = block(first, stop)
        weights = weights / total[..., first:stop, None]
        for fai, (low, high) in zip(received, horizons, strict=True):
            band = (distance >= low) & (distance <= (length if high is None else high))
            rows = band & response[:, first:stop, None]  # (B, rows, columns): T(s)
            count = rows.sum(1)  # (B, columns)
            mean = (weights * rows[:, None]).sum(2) / torch.where(count > 0, count, float("nan"))[:, None]
            fai[..., first : first + count.shape[1]] = mean
    rows = response[:, None]  # (B, 1, N)
    span = torch.where(rows, far / total, 0).sum(-1) / rows.sum(-1)
    return span, near / total, received


def implicit_signals(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B N"],
    attention_mask: Bool[Tensor, "B N"],
    response_mask: Bool[Tensor, "B N"],
    config: SignalConfig = _DEFAULTS,
    *,
    head_sets: HeadSets | None = None,
) -> Signals:
    """WAAD (Eq. 9) and FAI (Eq. 10) of each response token, read from |A| normalised by row.

    Arguments and result are those of `attention_signals`. "middle" and its like are drawn from the layers that have an
    implicit map; `Signals.layers` has the model's own numbers.

    Raises:
        ValueError: what `attention_signals` raises; layers that the model does not have.
        UnsupportedAttention: the model, or a layer asked for, has no implicit map.
    """
    attention_mask, response_mask = attention_mask.bool(), response_mask.bool()
    check_masks(input_ids, attention_mask, response_mask)
    layers = _chosen(model, config)
    order, back = right_padding(attention_mask)
    statistics = head_statistics(
        model, input_ids.gather(1, order), response_mask.gather(1, order), layers, config.window, [config.horizon]
    )
    waad, fai = (x.gather(3, back[:, None, None].expand_as(x)) for x in (statistics.waad, statistics.fai[0]))
    return combine_heads(statistics.span, waad, fai, layers, attention_mask, response_mask, config, head_sets)


def _chosen(model: PreTrainedModel, config: SignalConfig) -> tuple[int, ...]:
    if not isinstance(config.layers, str):
        return select_layers(model.config.get_text_config().num_hidden_layers, config.layers, config.num_layers)
    own = implicit_layers(model)
    return tuple(own[i] for i in select_layers(len(own), config.layers, config.num_layers))
