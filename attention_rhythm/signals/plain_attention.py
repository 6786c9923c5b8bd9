"""Replacing the attention of a Hugging Face causal LM for the length of a `with` block.

Several parts of this project put a function of their own in the place of a model's attention: the decoder that shares
prefixes, and the streaming attention signals. All of them compute `softmax(scale * q k^T) v` with a causal mask and
nothing else, so all of them must refuse a model that does more. The refusal lives here, by name, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

# What an attention function may be handed without a change to the attention weights.
_HARMLESS = {
    "attention_dropout", "cache_position", "cu_seq_lens_k", "cu_seq_lens_q", "dropout", "is_causal", "layer_idx",
    "logits_to_keep", "max_length_k", "max_length_q", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "past_key_values", "position_embeddings", "position_ids", "return_dict", "scaling",
    "sliding_window", "use_cache",
}  # fmt: skip
_NAME = "attention_rhythm"

AttentionFunction = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
_active: ContextVar[AttentionFunction | None] = ContextVar("attention_function", default=None)


class UnsupportedAttention(ValueError):
    """The model's attention is not plain causal softmax attention; the message names the model and the reason."""


def _dispatch(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, T, D)
    key: torch.Tensor,  # (B, H_kv, T, D)
    value: torch.Tensor,  # (B, H_kv, T, D_v)
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in the place of an attention. RuntimeError: outside `replaced_attention`."""
    function = _active.get()
    if function is None:
        raise RuntimeError("the attention function is only there inside `replaced_attention`")
    _refuse_unless_plain(module, key.shape[2], attention_mask, kwargs)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = function(module, query, key, value, scale)  # (B, H, T, D_v)
    return out.transpose(1, 2), None


# No mask function is registered under this name: transformers then passes no mask, and no (T, T) mask is ever built.
AttentionInterface.register(_NAME, _dispatch)


def _refuse_unless_plain(module: torch.nn.Module, length: int, mask: Any, kwargs: dict[str, Any]) -> None:
    where = type(module).__name__
    if mask is not None:
        raise UnsupportedAttention(
            f"{where} builds an attention mask of its own; only plain causal masks are supported"
        )
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedAttention(f"{where} is not causal")
    window = kwargs.get("sliding_window")
    if window is not None and length > window:
        raise UnsupportedAttention(f"{where} has a sliding window of {window}, shorter than the sequence of {length}")
    if getattr(module, "training", False) and kwargs.get("dropout"):
        raise UnsupportedAttention(f"{where} applies attention dropout {kwargs['dropout']}: call model.eval() first")
    for name, value in kwargs.items():
        if value is not None and name not in _HARMLESS:
            raise UnsupportedAttention(f"{where} passes `{name}` to its attention: this is not plain softmax attention")


def check_architecture(model: PreTrainedModel) -> None:
    """Refuse, before any work, a model whose configuration says that some layer has no plain softmax attention.

    Raises:
        UnsupportedAttention: names the model type and the layer type.
    """
    config = model.config.get_text_config()
    for kind in set(getattr(config, "layer_types", None) or []):
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedAttention(f"{config.model_type} has layers of type {kind!r}: no plain softmax attention")
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedAttention(
            f"{config.model_type} does not go through transformers' attention interface, so its attention "
            "cannot be read"
        )


@contextmanager
def replaced_attention(model: PreTrainedModel, function: AttentionFunction) -> Iterator[None]:
    """Run every attention layer of `model` through `function(module, query, key, value, scale)` inside the block.

    Shapes: query (B, H, T, D), key and value (B, H_kv, T, D), result (B, H, T, D). `function` sees no mask: it applies
    the causal one itself. Sequences are to be padded on the right, where a causal query never looks.
    """
    check_architecture(model)
    config = model.config.get_text_config()
    before = config._attn_implementation
    token = _active.set(function)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _active.reset(token)
