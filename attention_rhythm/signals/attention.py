"""What the attention of a layer is: the one description that every pass reads.

transformers asks two registered functions for it. The first makes the mask: ours hands on the *rule* (`Rule`), so that
no (T, T) array exists. The second is called in the place of each layer's attention with that rule and the layer's own
settings: `Attention` is made of them, and what it cannot say is refused by name.

    A[t, s] = exp(x[t, s] - lse[t]),  x = cap tanh(scale q k / cap) + bias,  lse over the keys that the rule shows to t

A = 0 outside the rule. With a sink z, a logit of its own for each head, lse = log(exp(z) + sum_s exp(x[t, s])): the row
sums to rho < 1, and the rest looks at nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, masking_utils

from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    attention_implementation,
    attention_layers,
    backbone,
    exclusive,
    fresh_positions,
    hidden_states,
    some_tokens,
    text_config,
)

_NAME = "attention_rhythm"
_LEAVE_OUT = ("sdpa",)  # implementations of transformers that are handed soft caps and sinks, and have none
TWICE = "attends twice in one pass: which is meant is not known"


class OwnMask(UnsupportedAttention):
    """The model looks into its attention mask, or makes one of its own: which keys a query sees is not known."""


# What an attention function may be handed without a change to the attention weights.
_HARMLESS = {
    "attention_dropout", "cache_position", "cu_seq_lens_k", "cu_seq_lens_q", "dropout", "is_causal", "layer_idx",
    "logits_to_keep", "max_length_k", "max_length_q", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "output_router_logits", "past_key_values", "position_embeddings", "position_ids",
    "return_dict", "scaling", "use_cache",
    "sliding_window",  # for kernels that get no mask: the rule says the same
}  # fmt: skip


# --------------------------------------------------------------------------------------------- the rule


@dataclass(frozen=True, eq=False)
class Rule:
    """Which keys s a query t sees: s <= t, and what is said here. It stands where a model expects its mask.

    A model that looks into its mask makes a rule of its own: that is refused.
    """

    window: int | None = None  # t - s < window
    chunk: int | None = None  # t and s lie in the same chunk of this many tokens
    packed: bool = False  # t and s belong to the same sequence of a packed row

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise OwnMask("the model computes with its attention mask: its rule is not known")

    __getattr__ = __getitem__ = __bool__ = __len__ = __iter__ = __eq__ = __ne__ = __invert__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __and__ = __or__ = __lt__ = __gt__ = _refuse
    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        raise OwnMask("the model computes with its attention mask: its rule is not known")


_AND, _CAUSAL = masking_utils.and_masks(), masking_utils.causal_mask_function
_WINDOW = masking_utils.sliding_window_overlay(1)
_CHUNK = masking_utils.chunked_overlay(1, torch.zeros(1))
_PACKED = masking_utils.packed_sequence_mask_function(torch.zeros(1))


def _parts(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The conditions whose conjunction a mask function of transformers is."""
    if getattr(function, "__code__", None) is _AND.__code__:
        for part in inspect.getclosurevars(function).nonlocals["mask_functions"]:
            yield from _parts(part)
    else:
        yield function


def rule_of(function: Callable[..., Any]) -> Rule:
    """The rule behind a mask function of transformers.

    UnsupportedAttention: not causal, or a condition that is not known here.
    """
    known: dict[str, Any] = {}
    causal = False
    for part in _parts(function):
        code = getattr(part, "__code__", None)
        own = inspect.getclosurevars(part).nonlocals if code is not None else {}
        if part is _CAUSAL:
            causal = True
        elif code is _WINDOW.__code__:
            known["window"] = min(own["sliding_window"], known.get("window", own["sliding_window"]))
        elif code is _CHUNK.__code__ and not bool(own["left_padding"].any()):
            known["chunk"] = own["chunk_size"]
        elif code is _PACKED.__code__:
            known["packed"] = True
        elif part is masking_utils.bidirectional_mask_function:
            raise UnsupportedAttention("the attention is not causal")
        else:
            name = getattr(part, "__qualname__", str(part))
            raise UnsupportedAttention(f"the attention mask has a condition that is not known here ({name})")
    if not causal:
        raise UnsupportedAttention("the attention is not causal")
    return Rule(**known)


@dataclass(frozen=True)
class _NoRule:
    """Stands in the place of a mask whose rule is not known: refused where an attention uses it, and only there."""

    why: str


def _mask(mask_function: Callable[..., Any], q_offset: Any = 0, kv_offset: Any = 0, **_: Any) -> Rule | _NoRule:
    """What transformers calls for a mask. Padding is on the right, where a causal query never looks."""
    if q_offset or kv_offset:
        raise UnsupportedAttention("a cache of keys and values is in use: call the model with use_cache=False")
    try:
        return rule_of(mask_function)
    except UnsupportedAttention as error:  # an encoder's mask, say, in a decoder that has no encoder
        return _NoRule(str(error))


# -------------------------------------------------------------------------------------- the description


@dataclass(frozen=True, eq=False)
class Attention:
    """What a layer's attention is, but for its queries, keys and values."""

    scale: float  # factor on q k
    window: int | None = None  # a query sees this many nearest keys, itself among them
    chunk: int | None = None  # a query sees the keys of its own chunk of this many tokens
    softcap: float | None = None  # bound of the scores
    sinks: Float[Tensor, "H"] | None = None  # logit of what takes part in the softmax and is no key
    bias: Float[Tensor, "b h T S"] | None = None  # added to the scores; b is B or 1, h is H or 1
    packed: bool = False  # the row holds several sequences

    def within(self, length: int) -> Attention:
        """The same for sequences of `length` tokens: windows and chunks that none of them fills are left out."""
        window = self.window if self.window is not None and self.window < length else None
        chunk = self.chunk if self.chunk is not None and self.chunk < length else None
        if (window, chunk) == (self.window, self.chunk):
            return self
        return Attention(self.scale, window, chunk, self.softcap, self.sinks, self.bias, self.packed)

    @property
    def full(self) -> bool:
        """Whether its scores are scale q k of every key before the query, as fused kernels have them."""
        return self.window is None and self.chunk is None and self.softcap is None and self.bias is None

    @property
    def plain(self) -> bool:
        """Whether it is softmax(scale q k) under a causal mask, and nothing else."""
        return self.full and self.sinks is None

    def more_than_plain(self) -> str:
        """What makes it more than plain, in words."""
        named = {
            f"a sliding window of {self.window}": self.window,
            f"chunks of {self.chunk}": self.chunk,
            f"scores soft-capped at {self.softcap}": self.softcap,
            "attention sinks": self.sinks,
            "a bias on the scores": self.bias,
        }
        return " and ".join(words for words, value in named.items() if value is not None)

    def first_key(self, t: int) -> int:
        """The first key that a query from `t` on sees."""
        first = 0 if self.window is None else max(t - self.window + 1, 0)
        return first if self.chunk is None else max(first, t // self.chunk * self.chunk)

    def scores_(self, products: Float[Tensor, "B H t s"], t0: int, s0: int) -> Float[Tensor, "B H t s"]:
        """From q k of queries t0.. and keys s0.. to scores (nats), in place: -inf outside the rule, but for s > t."""
        scores = products.mul_(self.scale)
        rows, columns = scores.shape[-2:]
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.bias is not None:
            scores = scores.add_(self.bias[..., t0 : t0 + rows, s0 : s0 + columns])
        t = torch.arange(t0, t0 + rows, device=scores.device)[:, None]
        s = torch.arange(s0, s0 + columns, device=scores.device)
        if self.window is not None:
            scores = scores.masked_fill_(t - s >= self.window, float("-inf"))
        if self.chunk is not None:
            scores = scores.masked_fill_(t // self.chunk != s // self.chunk, float("-inf"))
        return scores


def describe(
    module: torch.nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    mask: Any,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> Attention:
    """The description of one call of an attention function of transformers.

    UnsupportedAttention: names what it cannot say. OwnMask: that is which keys a query sees.
    """
    where = type(module).__name__
    if mask is None:
        raise OwnMask(f"{where} is given no mask: whether it is causal is not known")
    if isinstance(mask, _NoRule):
        raise UnsupportedAttention(f"{where}: {mask.why}")
    if not isinstance(mask, Rule):
        raise OwnMask(f"{where} builds an attention mask of its own")
    if key.shape[2] != query.shape[2]:
        raise UnsupportedAttention(f"{where} attends to {key.shape[2]} keys with {query.shape[2]} queries")
    if kwargs.get("dropout"):
        raise UnsupportedAttention(f"{where} applies attention dropout {kwargs['dropout']}: call model.eval() first")
    own = {name: kwargs.get(name) for name in ("softcap", "s_aux", "position_bias")}
    for name, value in kwargs.items():
        if value is not None and name not in _HARMLESS and name not in own:
            raise UnsupportedAttention(f"{where} passes `{name}` to its attention: what that does is not known here")
    return Attention(
        scale=float(scaling if scaling is not None else query.shape[-1] ** -0.5),
        window=mask.window,
        chunk=mask.chunk,
        softcap=own["softcap"],
        sinks=None if own["s_aux"] is None else own["s_aux"].detach().float().reshape(-1),
        bias=own["position_bias"],
        packed=mask.packed,
    )


# -------------------------------------------------------------------------------------- the replacement

AttentionFunction = Callable[[torch.nn.Module, Tensor, Tensor, Tensor, Attention], Tensor]
_active: ContextVar[AttentionFunction | None] = ContextVar("attention_function", default=None)


def _dispatch(
    module: torch.nn.Module,
    query: Tensor,  # (B, H, T, D)
    key: Tensor,  # (B, H_kv, T, D)
    value: Tensor,  # (B, H_kv, T, D_v)
    attention_mask: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in the place of an attention. RuntimeError: outside `described_attention`."""
    function = _active.get()
    if function is None:
        raise RuntimeError("the model is being read in another thread: its attention is only there in that one")
    attention = describe(module, query, key, attention_mask, scaling, kwargs)
    out = function(module, query, key, value, attention)  # (B, H, T, D_v)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _dispatch)
AttentionMaskInterface.register(_NAME, _mask)


@contextmanager
def described_attention(
    model: PreTrainedModel, function: AttentionFunction, modules: Sequence[torch.nn.Module] | None = None
) -> Iterator[None]:
    """Run every attention layer of `model` through `function(module, query, key, value, attention)` inside the block.

    Shapes: query (B, H, T, D), key (B, H_kv, T, D), value (B, H_kv, T, D_v), result (B, H, T, D_v). Sequences are to be
    padded on the right, where a causal query never looks. Other threads wait for the end of the block. modules: see
    `attention_implementation`.

    UnsupportedAttention: the model does not go through transformers' attention interface, or, inside the block, it has
    an attention that cannot be said; the message begins with the model's type.
    """
    if modules is None:
        attention_layers(model)
    with attention_implementation(model, _NAME, modules):
        token = _active.set(function)
        try:
            yield
        except UnsupportedAttention as error:
            kind = model.config.model_type
            if str(error).startswith(kind):
                raise
            raise type(error)(f"{kind}: {error}") from error
        finally:
            _active.reset(token)


class LastCall:
    """The layer, queries and keys of the last call of an attention."""

    layer: int | None = None
    query: Tensor | None = None
    key: Tensor | None = None

    def repeated(self, layer: int, query: Float[Tensor, "B H T D"], key: Float[Tensor, "B G S D"]) -> bool:
        """Whether this call has the map of the one before it, which is forgotten for it."""
        same = self.layer == layer and _equal(query, self.query) and _equal(key, self.key)
        self.layer, self.query, self.key = layer, query, key
        return same


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return one is other or (other is not None and one.shape == other.shape and torch.equal(one, other))


# What a model may raise that is handed a rule where it expects a mask, or decoded by what does not fit it.
STUMBLES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a model said when it was asked for the attention of its layers."""

    calls: tuple[tuple[int, Attention], ...] = ()  # (layer, its attention), in the order in which they are called
    refusal: str | None = None
    own_mask: bool = False  # it is refused because the model looks into its mask, or makes one of its own


_asked: WeakKeyDictionary[PreTrainedModel, _Asked] = WeakKeyDictionary()


@torch.no_grad()
def attention_of_layers(model: PreTrainedModel) -> tuple[tuple[int, Attention], ...]:
    """(layer, its attention) of each map in one forward pass, whatever the length of a sequence.

    From a pass over two tokens, made once for each model. A layer that puts one map to two sets of values has one.

    UnsupportedAttention: see `described_attention`.
    """
    if model not in _asked:
        calls: list[tuple[int, Attention]] = []
        last = LastCall()

        def note(module, query, key, value, attention):
            if not last.repeated(module.layer_idx, query, key):
                calls.append((module.layer_idx, attention))
            return query.new_zeros(*query.shape[:3], value.shape[3])  # what comes of it is not looked at

        try:
            decoder = backbone(model)  # to find it, a pass may be needed, whose calls are not to be counted
            with described_attention(model, note):
                decoder(input_ids=some_tokens(model), use_cache=False)
            _asked[model] = _Asked(tuple(calls))
        except torch.OutOfMemoryError:
            raise
        except STUMBLES as error:
            said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            known = isinstance(error, UnsupportedAttention)
            # all that an ordinary pass has and this one has not is a mask where there is a rule here
            own_mask = isinstance(error, OwnMask) or not known
            _asked[model] = _Asked((), str(error) if known else f"{model.config.model_type}: {said}", own_mask)
    asked = _asked[model]
    if asked.refusal is not None:
        raise (OwnMask if asked.own_mask else UnsupportedAttention)(asked.refusal)
    return asked.calls


def check_called_once(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """UnsupportedAttention: one of the layers has several maps in one pass, or see `attention_of_layers`."""
    called = [layer for layer, _ in attention_of_layers(model)]
    if twice := [layer for layer in layers if called.count(layer) > 1]:
        raise UnsupportedAttention(f"{model.config.model_type}: layer {twice[0]} {TWICE}")


def check_implementation(model: PreTrainedModel) -> None:
    """Refuse a model whose own forward pass leaves out a part of its attention.

    UnsupportedAttention: says what is left out, and what to call.
    """
    implementation = text_config(model)._attn_implementation
    if implementation not in _LEAVE_OUT:
        return
    try:
        calls = attention_of_layers(model)
    except UnsupportedAttention:
        known = _from_eager.setdefault(model, {})
        if implementation not in known:
            known[implementation] = _distance_from_eager(model)
        if known[implementation] > _ROUNDING:
            raise UnsupportedAttention(
                f"{model.config.model_type} computes something else with transformers' {implementation} than with eager"
                " attention: load it with attn_implementation='eager'"
            ) from None
        return
    for _, attention in calls:
        check_kept(model, attention, implementation)


_ROUNDING = 0.02  # of the largest hidden state, in any number format
_from_eager: WeakKeyDictionary[PreTrainedModel, dict[str, float]] = WeakKeyDictionary()


@torch.no_grad()
def _distance_from_eager(model: PreTrainedModel) -> float:
    """How far hidden states of a few tokens are from those through eager attention, over the largest of them."""

    tokens = some_tokens(model).repeat(1, 4) + torch.arange(8, device=model.device)  # (1, 8)
    with exclusive(model), fresh_positions(model):
        own = hidden_states(model, tokens).float()
        try:
            with attention_implementation(model, "eager"):
                eager = hidden_states(model, tokens).float()
        except STUMBLES:  # it has no eager attention to compare with
            return 0.0
    return float((own - eager).abs().max() / own.abs().max())


def check_kept(model: PreTrainedModel, attention: Attention, implementation: str) -> None:
    """Refuse a layer's attention of which an implementation of transformers leaves out a part.

    UnsupportedAttention: says what is left out, and what to call.
    """
    left_out = replace(attention, window=None, chunk=None, bias=None).more_than_plain()
    if implementation in _LEAVE_OUT and left_out:
        raise UnsupportedAttention(
            f"{model.config.model_type} has {left_out}, which transformers' {implementation} leaves out: call"
            " model.set_attn_implementation('eager')"
        )
