"""Which decoder a batch gets: shared prefixes where that is proven equal to the model, else the model's own cache.

What is right with neither is refused, with the reasons of both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from attention_rhythm.generation import proof
from attention_rhythm.generation.base import GenerationError
from attention_rhythm.generation.decoding import CacheDecoder, Decoder, Lanes, PrefixDecoder
from attention_rhythm.models import context_length
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.attention import check_implementation

Key = TypeVar("Key", bound=Hashable)

# Tokens of one prefix that the rows of a proof go on from: rows of one length, and of two.
_EQUAL, _UNEQUAL = (11, 11), (11, 4)
# Some models count positions by their first layer, which may keep no keys; some begin to count at another number.
_CACHES = (partial(CacheDecoder, positions=True), partial(CacheDecoder, positions=False))


@dataclass(frozen=True)
class Rows:
    """B rows to be continued."""

    prefixes: Sequence[torch.Tensor]  # G token sequences (1-d long tensors), possibly empty
    group: Sequence[int]  # (B,) index of each row's prefix
    visible: Sequence[int]  # (B,) how many of its prefix's tokens a row sees; one given token follows them
    limits: Sequence[int]  # (B,) most tokens that come after that

    def only(self, rows: Iterable[int]) -> Rows:
        """Some of them, and the prefixes of these."""
        rows = list(rows)
        used = sorted({self.group[row] for row in rows})
        return Rows(
            [self.prefixes[g] for g in used],
            [used.index(self.group[row]) for row in rows],
            [self.visible[row] for row in rows],
            [self.limits[row] for row in rows],
        )

    @property
    def reach(self) -> int:
        """Tokens of the longest row at its limit."""
        return max(seen + 1 + limit for seen, limit in zip(self.visible, self.limits, strict=True))


def make_decoder(model: PreTrainedModel, rows: Rows) -> Decoder:
    """The decoder of these rows that is proven for the model.

    Raises:
        GenerationError: a row would pass the context. UnsupportedAttention: no decoder is equal to the model's forward
            pass, or a row would pass the length at which its rotary frequencies change.
    """
    _check_context(context_length(model.config), rows)
    past = _past_the_original(model, rows)
    return _lanes(model, rows, past, lambda lane, lane_past: _of_one_regime(model, lane, any(lane_past)))


def shared_prefix_refusal(model: PreTrainedModel, reach: int) -> str | None:
    """Why rows of up to `reach` tokens are not decoded with shared prefixes; None if they are."""
    return proof.misfit(model, PrefixDecoder, _UNEQUAL) or proof.hidden_within(model, reach)


def cache_decoder(model: PreTrainedModel) -> tuple[partial[CacheDecoder] | None, str | None]:
    """The decoder through the model's own cache, or why there is none."""
    try:
        check_implementation(model)
    except UnsupportedAttention as error:
        return None, str(error)
    if proof.chooses_tokens(model):
        return None, "its layers make masks of their own, so that a few tokens prove nothing for many"
    reasons = []
    for decoder in _CACHES:
        reason = proof.misfit(model, decoder, _EQUAL)
        if reason is None:
            return decoder, None
        reasons.append(reason)
    return None, reasons[0]


# --------------------------------------------------------------------------------------------- private


def _of_one_regime(model: PreTrainedModel, rows: Rows, past: bool) -> Decoder:
    """The decoder of rows whose frequencies are the same all along; past: not those of short sequences."""
    reason = "its rotary frequencies depend on the length" if past else shared_prefix_refusal(model, rows.reach)
    if reason is None:
        return _build(PrefixDecoder, model, rows)
    decoder, refusal = cache_decoder(model)
    if decoder is None:
        raise UnsupportedAttention(
            f"{model.config.model_type} cannot be decoded: with shared prefixes, {reason}; through its own cache,"
            f" {refusal}"
        )
    if proof.misfit(model, decoder, _UNEQUAL) is None:
        return _build(decoder, model, rows)
    return _lanes(model, rows, rows.visible, lambda lane, _: _build(decoder, model, lane))


def _build(kind: Callable[..., Decoder], model: PreTrainedModel, rows: Rows) -> Decoder:
    return kind(model, list(rows.prefixes), torch.tensor(rows.group), torch.tensor(rows.visible))


def _lanes(model: PreTrainedModel, rows: Rows, keys: Sequence[Key], make: Callable[[Rows, Key], Decoder]) -> Decoder:
    """A decoder for the rows of each key, (B,) keys."""
    rows_of: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    if len(rows_of) == 1:
        return make(rows, keys[0])
    return Lanes([(torch.tensor(own, device=model.device), make(rows.only(own), key)) for key, own in rows_of.items()])


def _check_context(context: int | None, rows: Rows) -> None:
    for seen, limit in zip(rows.visible, rows.limits, strict=True):
        prompt = seen + 1
        if context is None or prompt + limit <= context:
            continue
        if prompt >= context:
            raise GenerationError(f"a prompt of {prompt} tokens is longer than the context of {context}")
        raise GenerationError(
            f"a prompt of {prompt} tokens and {limit} new ones do not fit the context of {context}: lower"
            f" max_new_tokens to {context - prompt}"
        )


def _past_the_original(model: PreTrainedModel, rows: Rows) -> list[tuple[bool, ...]]:
    """For each row and each regime of rotary frequencies: whether the row is past its original length all along.

    UnsupportedAttention: a row would get there on the way.
    """
    regimes = sorted(proof.regimes(model), key=lambda regime: regime.original)
    past = []
    for seen, limit in zip(rows.visible, rows.limits, strict=True):
        prompt = seen + 1
        for regime in regimes:
            stays_short = prompt + limit <= regime.original
            if not stays_short and (regime.kind != "longrope" or prompt <= regime.original):
                raise UnsupportedAttention(
                    f"{model.config.model_type} has {regime.kind} positions, whose frequencies change behind token"
                    f" {regime.original}: a prompt of {prompt} and {limit} new tokens would not have the probabilities"
                    f" of one forward pass; keep both within {regime.original} tokens by a lower max_new_tokens"
                )
        past.append(tuple(prompt > regime.original for regime in regimes))
    return past
