"""What a language model is made of, as far as reading it goes: its layers of attention, its decoder, its positions.

What cannot be read is refused here, by name and before any work.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from attention_rhythm.errors import InputError, ReproError
from attention_rhythm.signals.heads import select_layers


class UnsupportedAttention(ReproError, ValueError):
    """The model's attention is not understood, so it is not read; the message names the model and the reason."""


# ------------------------------------------------------------------------------------------- its parts


def language_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without what PEFT has put around it. Adapters inside its layers stay at work.

    UnsupportedAttention: another wrapper, a model without weights, adapters that add tokens of their own.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UnsupportedAttention(f"{type(model).__name__} wraps the model: hand over model.module")
    if hasattr(model, "active_peft_config"):
        adapter: Any = model
        if adapter.active_peft_config.is_prompt_learning:
            raise UnsupportedAttention(
                f"{adapter.active_peft_config.peft_type} puts virtual tokens before the prompt, so positions would not"
                " be those of the tokens: only adapters inside the layers (LoRA, IA3) are supported"
            )
        model = adapter.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedAttention(f"{type(model).__name__} is not a model of transformers")
    if model.device.type == "meta":
        raise UnsupportedAttention("the model is on the meta device, without weights: load it with from_pretrained")
    return model


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of the part that reads text."""
    return model.config.get_text_config(decoder=True)


def backbone(model: PreTrainedModel) -> nn.Module:
    """What the causal LM calls for its hidden states: itself without what makes logits of them.

    UnsupportedAttention: there is no such part.
    """
    candidates = (model.base_model, model.get_decoder(), getattr(model, "model", None))
    parts = list({id(part): part for part in candidates if isinstance(part, nn.Module) and part is not model}.values())
    if len(parts) == 1:
        return parts[0]
    if model not in _backbones:  # a part in a wrapper that is passed over, or a part of a part: the first one called
        called: list[nn.Module] = []
        hooks = [part.register_forward_pre_hook(lambda part, *_: called.append(part)) for part in parts]
        try:
            with torch.no_grad(), exclusive(model):
                model(input_ids=some_tokens(model), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        if not called:
            raise UnsupportedAttention(f"{model.config.model_type} has no part of its own for its hidden states")
        _backbones[model] = called[0]
    return _backbones[model]


def hidden_states(
    model: PreTrainedModel, input_ids: Int[Tensor, "B N"], positions: Int[Tensor, "B N"] | None = None
) -> Float[Tensor, "B N D"]:
    """What the decoder hands to the output head, of right-padded sequences; in no unit.

    positions: of the tokens in their sequences; None: as they stand.
    """
    given = {} if positions is None else {"position_ids": positions}
    out = backbone(model)(input_ids=input_ids, use_cache=False, **given)
    return out[0] if isinstance(out, tuple) else out.last_hidden_state


def rounding(model: PreTrainedModel) -> float:
    """Share of the largest hidden state by which two orders of the same sums may differ."""
    exact = model.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(model.device.type)
    return 1e-4 if exact else 2e-2


_backbones: weakref.WeakKeyDictionary[PreTrainedModel, nn.Module] = weakref.WeakKeyDictionary()


def some_tokens(model: PreTrainedModel) -> Int[Tensor, "1 2"]:
    """Two tokens from the middle of the vocabulary, to ask a model what it is made of."""
    return torch.full((1, 2), text_config(model).vocab_size // 2, device=model.device)


def text_decoder(model: PreTrainedModel) -> nn.Module:
    """The part that reads text, without those for images or audio where the model tells them apart."""
    named, table = model.get_decoder(), model.get_input_embeddings()
    holds = any(module is table for module in named.modules())
    return named if holds else backbone(model)  # some call their output head "decoder"


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules of the decoder that look their attention up in transformers' interface, in the model's order.

    Those that attend to images are left out; so are unnumbered ones beside numbered ones, which belong to other parts.
    """
    found = [m for m in text_decoder(model).modules() if _asks_the_interface(type(m))]  # type: ignore[arg-type]
    return [module for module in found if getattr(module, "layer_idx", None) is not None] or found


@cache
def _asks_the_interface(kind: type[nn.Module]) -> bool:
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    if code is None or "cross_attention_states" in code.co_varnames[: code.co_argcount]:
        return False
    return "ALL_ATTENTION_FUNCTIONS" in code.co_names


def attention_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The model's own numbers of its layers of softmax attention; those of another kind are left out.

    UnsupportedAttention: there is none, or they are not numbered.
    """
    modules = attention_modules(model)
    numbers = {getattr(module, "layer_idx", None) for module in modules}
    kind = model.config.model_type
    if not modules:
        raise UnsupportedAttention(
            f"{kind} does not go through transformers' attention interface, so its attention cannot be read"
        )
    known = [int(number) for number in numbers if number is not None and number >= 0]
    if len(known) < len(numbers):  # or has -1 for a block that several layers share
        raise UnsupportedAttention(f"{kind} does not number its layers of attention, so they cannot be told apart")
    return tuple(sorted(known))


def layers_to_read(model: PreTrainedModel, layers: str | tuple[int, ...], num_layers: int | None) -> tuple[int, ...]:
    """`select_layers` among the layers of softmax attention; numbers are the model's own.

    UnsupportedAttention: a layer of another kind. InputError: a layer that the model does not have.
    """
    known = attention_layers(model)
    if isinstance(layers, str):
        return tuple(known[i] for i in select_layers(len(known), layers, num_layers))
    depth = getattr(text_config(model), "num_hidden_layers", 0)
    chosen = select_layers(max(known[-1] + 1, depth), layers, num_layers)
    if other := [layer for layer in chosen if layer not in known]:
        raise UnsupportedAttention(
            f"layers {other} of {model.config.model_type} have no softmax attention; those that do are {list(known)}"
        )
    return chosen


# ----------------------------------------------------------------------------------- what is refused


_NOT_OF_TEXT = ("image", "img", "vision", "visual", "audio", "speech")  # in the names of parts for something else


def check_readable(model: PreTrainedModel, length: int) -> None:
    """Refuse what would give wrong numbers without an error.

    UnsupportedAttention: dropout at work. InputError: sequences longer than a table of learned positions.
    """
    if found := random_parts(model):
        raise UnsupportedAttention(f"{found} is at work in training mode, so no two passes agree: call model.eval()")
    for name, module in text_decoder(model).named_modules():
        learned = isinstance(module, nn.Embedding) and ("position" in name or name.endswith("wpe"))
        learned = learned and not any(word in name for word in _NOT_OF_TEXT)
        if learned and module.num_embeddings < length:
            raise InputError(
                f"a sequence of {length} tokens is longer than the {module.num_embeddings} positions of "
                f"{model.config.model_type}: cut it to them"
            )


def random_parts(model: PreTrainedModel, *, training: bool = False) -> str | None:
    """The name of something random that is at work: a module in training mode, or a setting of a model in it.

    training: as if all of the model were in training mode.
    """
    for name, module in model.named_modules():
        drops = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        if drops and (training or module.training):
            return f"dropout {module.p} in {name}"
    for name, value in vars(text_config(model)).items() if training or model.training else ():
        if "classif" in name or "summary" in name:  # of heads for something else
            continue
        if ("drop" in name or "jitter" in name) and isinstance(value, float) and value > 0:
            return f"{name}={value}"
    return None


# ------------------------------------------------------------------------------------------ one at a time

_locks: dict[int, threading.RLock] = {}
_making = threading.Lock()


@contextmanager
def exclusive(model: PreTrainedModel) -> Iterator[None]:
    """One thread at a time: a model that is being read has its attention replaced.

    Models that share a configuration share the lock, since it is the configuration that is changed.
    """
    config = text_config(model)
    with _making:
        if id(config) not in _locks:
            _locks[id(config)] = threading.RLock()
            weakref.finalize(config, _locks.pop, id(config), None)
        lock = _locks[id(config)]
    with lock:
        yield


@contextmanager
def attention_implementation(
    model: PreTrainedModel, name: str, modules: Sequence[nn.Module] | None = None
) -> Iterator[None]:
    """Every layer of attention goes through the implementation of that name, in this thread, inside the block.

    modules: `attention_modules(model)`, from who enters the block token by token and has looked for them before.
    """
    with exclusive(model):
        modules = attention_modules(model) if modules is None else modules
        found: list[Any] = [text_config(model), *(module.config for module in modules)]
        configs = {id(config): config for config in found}
        before = {number: config._attn_implementation for number, config in configs.items()}
        try:
            for config in configs.values():
                config._attn_implementation = name
            yield
        finally:
            for number, config in configs.items():
                config._attn_implementation = before[number]


# --------------------------------------------------------------------------------- rotary positions

_BY_LENGTH = ("dynamic", "longrope")  # kinds of rotary positions whose frequencies follow from the longest position


def rotary_by_length(model: PreTrainedModel) -> list[tuple[Any, str, str]]:
    """(module, kind, prefix of its buffers) of the rotary positions whose frequencies depend on the length.

    A module that serves several types of layers has a kind for each, and its buffers begin with the type's name.
    """
    found: list[tuple[Any, str, str]] = []
    for module in text_decoder(model).modules():
        kinds = getattr(module, "rope_type", None)
        named = kinds if isinstance(kinds, dict) else {"": kinds}
        found += [
            (module, kind, f"{name}_" if name else "")
            for name, kind in named.items()
            if isinstance(kind, str) and any(word in kind for word in _BY_LENGTH)
        ]
    return found


def length_matters(model: PreTrainedModel) -> bool:
    """Whether a token's positions depend on how long the batch is that it stands in: such sequences are read alone."""
    return bool(rotary_by_length(model))


@contextmanager
def fresh_positions(model: PreTrainedModel) -> Iterator[None]:
    """Rotary positions that have seen no sequence yet, inside the block and after it. Other threads wait for its end.

    transformers keeps the frequencies of the longest sequence so far.
    """

    def forget() -> None:
        for module, kind, prefix in rotary_by_length(model):
            original = getattr(module, f"{prefix}original_inv_freq")
            own = getattr(module, f"{prefix}inv_freq")
            module.register_buffer(f"{prefix}inv_freq", original.to(own.device), persistent=False)
            if "dynamic" in kind:
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)

    with exclusive(model):
        forget()
        try:
            yield
        finally:
            forget()


def read_alone(
    model: PreTrainedModel, lengths: Int[Tensor, "B"], width: int, *, always: bool = False
) -> list[tuple[Tensor, int]]:
    """Rows that may stand in one batch, with its width: all of them, unless the length matters. always: each alone."""
    if not (always or length_matters(model)):
        return [(torch.arange(len(lengths), device=lengths.device), width)]
    return [(row[None], int(lengths[row])) for row in torch.arange(len(lengths), device=lengths.device)]
