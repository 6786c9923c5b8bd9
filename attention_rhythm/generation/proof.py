"""What a model can be decoded by, shown on the model itself before the first token is drawn.

A decoder is used where it is proven equal to a full forward pass:

- *Short range*: a few tokens that it decodes have the logits that one forward pass has for them. A layer that is called
  twice or not at all, one with a state of its own, a convolution, another score than q k: all of them show here.
- *Long range*: up to the length asked for, every token sees every token before it. This is read from the description of
  each layer's attention (`signals.attention`): a window or chunk that begins to matter later shows here.
- *Positions*: rotary frequencies that depend on the length (`dynamic`, `longrope`) are the same all along (`Regime`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from attention_rhythm.generation.base import GenerationError
from attention_rhythm.signals.architecture import UnsupportedAttention, rotary_by_length
from attention_rhythm.signals.attention import STUMBLES, OwnMask, attention_of_layers

# Largest difference of logits, as a share of their standard deviation over the vocabulary. Another structure is off by
# a share near 1; rounding to float32 by less than 1e-4, to half precision or TensorFloat-32 by hundredths.
_EXACT, _ROUNDED = 1e-3, 0.3


def accepts(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's forward pass has a parameter of this name."""
    return argument in inspect.signature(model.forward).parameters


# ------------------------------------------------------------------------------------------ short range

Decode = Callable[[PreTrainedModel, list[torch.Tensor], torch.Tensor, torch.Tensor], Any]  # -> a decoder
_shown: WeakKeyDictionary[PreTrainedModel, dict[Any, str | None]] = WeakKeyDictionary()
_STEPS = 3


def misfit(model: PreTrainedModel, decode: Decode, visible: Sequence[int]) -> str | None:
    """Why a decoder is not equal to full forward passes of this model; None if it is.

    Tried once for each model, and once more where autocast rounds what it computes.

    Args:
        decode: the decoder's constructor.
        visible: how many tokens of one prefix each row goes on from.

    BrokenLogits: NaN or inf in what the model predicts.
    """
    answers = _shown.setdefault(model, {})
    exact = _computes_exactly(model)
    key = (decode, tuple(visible), exact)
    if key not in answers:
        try:
            answers[key] = _difference(model, decode, visible, _EXACT if exact else _ROUNDED)
        except STUMBLES as error:
            answers[key] = _said(error)
    return answers[key]


def _said(error: Exception) -> str:
    """A decoder's or a model's refusal in one line. What is none, NaN or too little memory, is raised again."""
    if isinstance(error, GenerationError | torch.OutOfMemoryError):
        raise error
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, UnsupportedAttention) else f"{type(error).__name__}: {line}"


@torch.inference_mode()
def _difference(model: PreTrainedModel, decode: Decode, visible: Sequence[int], rounding: float) -> str | None:
    """The largest difference as a sentence; None within `rounding`."""
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
    return None if share <= rounding else f"its logits would be off by {share:.1e} of their spread"


def _computes_exactly(model: PreTrainedModel) -> bool:
    """Whether the model computes in float32 or better here: not under autocast, nor in TensorFloat-32."""
    if torch.is_autocast_enabled(model.device.type):
        return False
    highest = torch.get_float32_matmul_precision() == "highest"
    return model.dtype == torch.float64 or (model.dtype == torch.float32 and highest)


def _some_tokens(model: PreTrainedModel, count: int, seed: int = 0) -> torch.Tensor:
    """(count,) token ids from the middle of the vocabulary, where ordinary text is."""
    size = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    return torch.randint(size // 8, size // 2, (count,), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------- long range


def hidden_within(model: PreTrainedModel, reach: int) -> str | None:
    """What some layer hides from the last of `reach` tokens, or why that is not known; None if every layer sees all."""
    try:
        calls = attention_of_layers(model)
    except UnsupportedAttention as error:
        return str(error)
    for layer, attention in calls:
        if first := attention.first_key(reach - 1):
            return f"layer {layer} sees {reach - first} of {reach} tokens (a window)"
    return None


def chooses_tokens(model: PreTrainedModel) -> bool:
    """Whether layers make masks of their own, by which they may choose tokens from some length on."""
    try:
        attention_of_layers(model)
    except UnsupportedAttention as error:
        return isinstance(error, OwnMask)
    return False


# -------------------------------------------------------------------------------------------- positions


@dataclass(frozen=True)
class Regime:
    """Rotary positions whose frequencies depend on the length of what is in a batch."""

    kind: str  # "dynamic" | "longrope"
    original: int  # tokens up to which the frequencies are those of the training


def regimes(model: PreTrainedModel) -> set[Regime]:
    """Of all rotary modules; empty where frequencies are constants."""
    found = set()
    for module, kind, prefix in rotary_by_length(model):
        if kind == "longrope":
            settings = module.config.rope_parameters
            settings = settings[prefix.removesuffix("_")] if prefix else settings
            found.add(Regime("longrope", int(settings["original_max_position_embeddings"])))
        else:  # at the very length transformers keeps the frequencies of a longer sequence before
            found.add(Regime("dynamic", int(module.original_max_seq_len) - 1))
    return found
