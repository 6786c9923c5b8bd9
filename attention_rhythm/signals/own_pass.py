"""Whether a model's own forward pass is that of a causal language model, found out once for each model.

A few tokens are read in a few ways. What differs where it must not is refused by name: log-probabilities of such a pass
would be numbers without a meaning, or others than those of the model that was trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    attention_implementation,
    attention_layers,
    attention_modules,
    backbone,
    exclusive,
    fresh_positions,
    text_config,
    text_decoder,
)
from attention_rhythm.signals.attention import described_attention

_TOKENS, _KEPT = 8, 5  # of the probe; of them before the ones that are changed
_EXACT, _ROUNDED = 1e-3, 5e-2  # largest difference, over the spread of the hidden states: float32, shorter formats


def hidden_states(model: PreTrainedModel, input_ids: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
    """What the decoder hands to the output head, of right-padded sequences; in no unit."""
    out = backbone(model)(input_ids=input_ids, use_cache=False)
    return out[0] if isinstance(out, tuple) else out.last_hidden_state


# --------------------------------------------------------------------------------------- layers that come by twice

_calls: WeakKeyDictionary[PreTrainedModel, Counter[int]] = WeakKeyDictionary()


def check_layers_attend_once(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Refuse layers that attend several times in one pass: a pass that ends after the last layer would not see it.

    In transformers' own models such layers have one number in several places; others are tried out.

    UnsupportedAttention: such a layer, or an attention that is not understood.
    """
    if model not in _calls:
        own = type(model).__module__.startswith("transformers.")
        _calls[model] = _places(model) if own else _count_calls(model)
    if twice := [layer for layer in layers if _calls[model][layer] > 1]:
        raise UnsupportedAttention(
            f"layers {twice} of {model.config.model_type} attend twice in one pass: which is meant is not known"
        )


def _places(model: PreTrainedModel) -> Counter[int]:
    """In how many blocks of the decoder each number of a layer of attention stands."""
    number: dict[nn.Module, Any] = {module: module.layer_idx for module in attention_modules(model)}
    blocks = [{number[part] for part in block.children() if part in number} for block in text_decoder(model).modules()]
    return Counter(layer for block in blocks for layer in block)


def _count_calls(model: PreTrainedModel) -> Counter[int]:
    """How often each layer attends, in a pass in which it attends to nothing."""
    calls: Counter[int] = Counter()

    def attend(module, query, key, value, attention):
        calls[getattr(module, "layer_idx", None)] += 1
        return query.new_zeros(*query.shape[:3], value.shape[3])

    with fresh_positions(model), torch.no_grad(), described_attention(model, attend):
        hidden_states(model, _probe(model)[None])
    return calls


# --------------------------------------------------------------------------------------------- the whole pass

# For each model, by the name of its attention implementation, which users may change.
_refusals: WeakKeyDictionary[PreTrainedModel, dict[str | None, str | None]] = WeakKeyDictionary()
_differences: WeakKeyDictionary[PreTrainedModel, dict[str | None, str | None]] = WeakKeyDictionary()


def check_own_pass(model: PreTrainedModel) -> None:
    """Refuse a model whose log-probabilities would not be those of a causal language model.

    UnsupportedAttention: later tokens change what earlier ones predict, or may do so in longer sequences; the attention
    implementation leaves something out.
    """
    known, own = _refusals.setdefault(model, {}), text_config(model)._attn_implementation
    if own not in known:
        with exclusive(model):
            known[own] = _chooses_tokens(model) or _looks_ahead(model) or implementation_differs(model)
    if known[own] is not None:
        raise UnsupportedAttention(f"{model.config.model_type}: {known[own]}")


def _chooses_tokens(model: PreTrainedModel) -> str | None:
    """Why a model that goes through the attention interface may choose which tokens to see; else None.

    Such a choice begins at some length (2048 tokens, say), so a probe of a few would prove nothing.
    """
    if not model._supports_attention_backend:
        return None
    try:
        attention_layers(model)
    except UnsupportedAttention:
        return None
    try:
        _count_calls(model)
    except UnsupportedAttention as error:
        return f"later tokens may change what earlier ones predict ({error})"
    return None


def _looks_ahead(model: PreTrainedModel) -> str | None:
    """Whether other tokens behind change what is read before them."""
    tokens = _probe(model)
    other = torch.cat([tokens[:_KEPT], tokens[_KEPT:].flip(0) + 1])
    before, after = (_hidden(model, x)[:_KEPT] for x in (tokens, other))
    if _apart(before, after) <= _tolerance(model):
        return None
    return "later tokens change what earlier ones predict, so it is no causal language model"


def implementation_differs(model: PreTrainedModel) -> str | None:
    """Whether the model's attention implementation computes something else than its own eager attention; else None.

    transformers' `sdpa` leaves out a soft cap of the scores without a word.
    """
    known, own = _differences.setdefault(model, {}), text_config(model)._attn_implementation
    if own not in known:
        known[own] = None if own in (None, "eager") else _from_eager(model, own)
    return known[own]


def _from_eager(model: PreTrainedModel, own: str) -> str | None:
    tokens = _probe(model)
    try:
        with attention_implementation(model, "eager"):
            eager = _hidden(model, tokens)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # it has no eager attention to compare with
        return None
    apart = _apart(_hidden(model, tokens), eager)
    if not apart > _tolerance(model):  # NaN: eager attention is broken, not the other
        return None
    return (
        f"its attention implementation '{own}' and its eager attention differ ({apart:.0e} of the spread of the hidden"
        " states): load it with attn_implementation='eager'"
    )


def _probe(model: PreTrainedModel) -> Int[Tensor, "n"]:
    """Tokens from the middle of the vocabulary, where ordinary text is."""
    size = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    tokens = torch.randint(size // 8, size // 2, (_TOKENS,), generator=torch.Generator().manual_seed(0))
    return tokens.to(model.device)


def _hidden(model: PreTrainedModel, tokens: Int[Tensor, "n"]) -> Float[Tensor, "n D"]:
    """In the model's own number format, also where autocast is on: `_tolerance` goes by it."""
    with fresh_positions(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        return hidden_states(model, tokens[None])[0].float()


def _apart(one: Float[Tensor, "n D"], other: Float[Tensor, "n D"]) -> float:
    """The largest root mean square of a row of differences, over the spread of the row."""
    difference = (one - other).square().mean(-1).sqrt()
    return float((difference / one.std(-1).clamp(min=1e-12)).max())


def _tolerance(model: PreTrainedModel) -> float:
    exact = model.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return _EXACT if exact or model.dtype == torch.float64 else _ROUNDED
