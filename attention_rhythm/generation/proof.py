"""What a model can be decoded by, shown on the model itself before the first token is drawn.

A decoder is used where it is proven equal to a full forward pass:

- *Short range*: a few tokens that it decodes have the logits that one forward pass has for them. A layer that is called
  twice or not at all, one with a state of its own, a convolution, another score than q k: all of them show here.
- *Long range*: up to the length asked for, every token sees every token before it. This is read from the rules that the
  model hands to its layers of attention in place of masks: a window or chunk that begins to matter later shows here.
- *Positions*: rotary frequencies that depend on the length (`dynamic`, `longrope`) are the same all along (`Regime`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attention_rhythm.generation.base import GenerationError
from attention_rhythm.signals.plain_attention import UnsupportedAttention

# What a decoder that does not fit a model may raise, or the model itself.
_MISFITS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
# Largest difference of logits, as a share of their standard deviation over the vocabulary. Another structure is off by
# a share near 1; rounding to float32 by less than 1e-4, to half precision or TensorFloat-32 by hundredths.
_EXACT, _ROUNDED = 1e-3, 0.3


def language_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without what PEFT has put around it; adapters inside its layers stay at work.

    GenerationError: another wrapper, a model without weights, adapters that add tokens of their own.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise GenerationError(f"{type(model).__name__} wraps the model: hand over model.module")
    if hasattr(model, "active_peft_config"):
        adapter: Any = model
        if adapter.active_peft_config.is_prompt_learning:
            raise GenerationError(
                f"{adapter.active_peft_config.peft_type} puts virtual tokens before the prompt: only adapters inside"
                " the layers (LoRA, IA3) can be decoded"
            )
        model = adapter.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise GenerationError(f"{type(model).__name__} is not a model of transformers")
    if model.device.type == "meta":
        raise GenerationError("the model is on the meta device, without weights: load it with from_pretrained")
    return model


def accepts(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's forward pass has a parameter of this name."""
    return argument in inspect.signature(model.forward).parameters


# ------------------------------------------------------------------------------------------ short range

Decode = Callable[[PreTrainedModel, list[torch.Tensor], torch.Tensor, torch.Tensor], Any]  # -> a decoder
_shown: WeakKeyDictionary[PreTrainedModel, dict[Any, str | None]] = WeakKeyDictionary()
_STEPS = 3


def misfit(model: PreTrainedModel, decode: Decode, visible: Sequence[int]) -> str | None:
    """Why a decoder is not equal to full forward passes of this model; None if it is. Tried once for each model.

    Args:
        decode: the decoder's constructor.
        visible: how many tokens of one prefix each row goes on from.

    BrokenLogits: NaN or inf in what the model predicts.
    """
    answers = _shown.setdefault(model, {})
    key = (decode, tuple(visible))
    if key not in answers:
        try:
            answers[key] = _difference(model, decode, visible)
        except _MISFITS as error:
            answers[key] = _said(error)
    return answers[key]


def _said(error: Exception) -> str:
    """A decoder's or a model's refusal in one line. What is none, NaN or too little memory, is raised again."""
    if isinstance(error, GenerationError | torch.OutOfMemoryError):
        raise error
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, UnsupportedAttention) else f"{type(error).__name__}: {line}"


@torch.inference_mode()
def _difference(model: PreTrainedModel, decode: Decode, visible: Sequence[int]) -> str | None:
    """The largest difference as a sentence; None within what rounding explains."""
    prefix, more = _some_tokens(model, max(visible)), _some_tokens(model, len(visible) * _STEPS, seed=1)
    steps = more.view(_STEPS, len(visible))
    decoder = decode(model, [prefix], torch.zeros(len(visible), dtype=torch.long), torch.tensor(visible))
    ours = torch.stack([decoder.step(tokens.to(model.device)) for tokens in steps], 1)  # (rows, steps, V)
    worst = []
    for row, seen in enumerate(visible):
        ids = torch.cat([prefix[:seen], steps[:, row]])[None].to(model.device)  # (1, seen + steps)
        whole = model(input_ids=ids, use_cache=False).logits[0, seen:].float()  # (steps, V)
        gap = (ours[row] - whole).square().mean(-1).sqrt() / whole.std(-1).clamp(min=1e-12)
        worst.append(gap.max())
    share = float(torch.stack(worst).max())
    exact = model.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    if share <= (_EXACT if exact or model.dtype == torch.float64 else _ROUNDED):
        return None
    return f"its logits would be off by {share:.1e} of their spread"


def _some_tokens(model: PreTrainedModel, count: int, seed: int = 0) -> torch.Tensor:
    """(count,) token ids from the middle of the vocabulary, where ordinary text is."""
    size = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    return torch.randint(size // 8, size // 2, (count,), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------- long range

_RECORDER = "attention_rhythm_rules"
_rules: ContextVar[list[Any] | None] = ContextVar("rules", default=None)


class _Rule:
    """What a model gets in place of a mask: when a query sees a key.

    UnsupportedAttention: the model computes with it.
    """

    def __init__(self, sees: Callable[..., Any]):
        self.sees = sees

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedAttention("it computes with its attention mask")

    __getattr__ = __getitem__ = __bool__ = __len__ = __iter__ = __eq__ = __ne__ = __invert__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __and__ = __or__ = __lt__ = __gt__ = _refuse
    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedAttention("it computes with its attention mask")


def _record(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **settings: Any
) -> tuple[torch.Tensor, None]:
    """What transformers calls in the place of an attention: notes its rule and its window, and attends to nothing.

    UnsupportedAttention: it comes with another mask. RuntimeError: outside `_recording`.
    """
    rules = _rules.get()
    if rules is None:
        raise RuntimeError("rules are only recorded inside `_recording`")
    if not isinstance(attention_mask, _Rule):
        raise UnsupportedAttention(f"{type(module).__name__} has an attention mask of its own")
    rules.append((attention_mask.sees, settings.get("sliding_window")))
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register(_RECORDER, _record)
AttentionMaskInterface.register(_RECORDER, lambda mask_function, **_: _Rule(mask_function))


@contextmanager
def _recording(model: PreTrainedModel) -> Iterator[list[Any]]:
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    found: list[Any] = []
    token = _rules.set(found)
    config._attn_implementation = _RECORDER
    try:
        yield found
    finally:
        config._attn_implementation = before
        _rules.reset(token)


_rules_of: WeakKeyDictionary[PreTrainedModel, list[Any] | str] = WeakKeyDictionary()


@torch.inference_mode()
def _attention_rules(model: PreTrainedModel) -> list[Any] | str:
    """(rule, window) of each layer of attention, or why they are not known. Asked once for each model."""
    if model not in _rules_of:
        with _recording(model) as found:
            try:
                model(input_ids=_some_tokens(model, 2)[None].to(model.device), use_cache=False)
                _rules_of[model] = found
            except _MISFITS as error:
                _rules_of[model] = _said(error)
    return _rules_of[model]


def hidden_within(model: PreTrainedModel, reach: int) -> str | None:
    """What some layer hides from the last of `reach` tokens, or why that is not known; None if every layer sees all."""
    rules = _attention_rules(model)
    if isinstance(rules, str):
        return rules
    keys = torch.arange(reach, device=model.device)
    first = keys.new_zeros(())
    for sees, window in rules:
        seen = torch.as_tensor(sees(first, first, keys[-1], keys)).expand(reach)
        count = min(int(seen.sum()), window or reach)
        if count < reach:
            return f"a layer sees {count} of {reach} tokens (a window)"
    return None


def chooses_tokens(model: PreTrainedModel) -> bool:
    """Whether layers make masks of their own, by which they may choose tokens from some length on."""
    return bool(model._supports_attention_backend) and isinstance(_attention_rules(model), str)


# -------------------------------------------------------------------------------------------- positions


@dataclass(frozen=True)
class Regime:
    """Rotary positions whose frequencies depend on the length of what is in a batch."""

    kind: str  # "dynamic" | "longrope"
    original: int  # tokens up to which the frequencies are those of the training


def regimes(model: PreTrainedModel) -> set[Regime]:
    """Of all rotary modules; empty where frequencies are constants."""
    found = set()
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer_type, kind in (kinds if isinstance(kinds, dict) else {None: kinds}).items():
            if not isinstance(kind, str) or not ("dynamic" in kind or kind == "longrope"):
                continue
            config: Any = module.config
            settings = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
            if kind == "longrope":
                found.add(Regime("longrope", int(settings["original_max_position_embeddings"])))
            else:  # at the very length transformers keeps the frequencies of a longer sequence before
                found.add(Regime("dynamic", int(module.original_max_seq_len) - 1))  # type: ignore[arg-type]
    return found
