"""What later tokens lose when they may not attend to one position (attention knock-out, teacher-forced).

In row b of a batch tokens behind position p_b do not attend to it, in all heads or in some; the text stays what it is.
The weight that p_b would have had goes to all other keys in proportion, or to one other position. Nothing else changes:
p_b itself is read as ever, so what it has written into later layers of its own column is lost to others, and not to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attention_rhythm.errors import InputError
from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    attention_layers,
    exclusive,
    hidden_states,
    language_model,
)
from attention_rhythm.signals.attention import Attention, described_attention
from attention_rhythm.signals.entropy import OutputHead, output_head

_ROWS = 16  # whose logits exist at once


@dataclass(frozen=True)
class Effect:
    """What each of B knock-outs changes; float32, NaN where the text has no such token."""

    kl: Float[Tensor, "B D"]  # nats, of the next-token distribution d = 1..D tokens behind, from the untouched one
    rest: Float[Tensor, "B"]  # nats, change of the log-probability of all tokens behind
    answer: Float[Tensor, "B"]  # nats, the same of the answer's tokens


class KnockOut:
    """An attention function for `described_attention`.

    Args:
        positions: (B,) the position that later tokens of a row do not see.
        heads: (L, H) bool, the heads in which they do not, by attention layer; None: all.
        moved_to: (B,) the position that gets its weight; None: all others, in proportion.
        layers: the model's own numbers of the attention layers.
    """

    def __init__(
        self,
        positions: Int[Tensor, "B"],
        heads: Bool[Tensor, "L H"] | None,
        moved_to: Int[Tensor, "B"] | None,
        layers: Sequence[int],
    ):
        self.positions, self.heads, self.moved_to = positions, heads, moved_to
        self.place = {layer: place for place, layer in enumerate(layers)}

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        """The output of a layer, (B, H, T, Dv). UnsupportedAttention: it is more than full softmax attention."""
        if not attention.within(query.shape[2]).plain:
            raise UnsupportedAttention("knock-out is written for full softmax attention alone")
        shared = query.shape[1] // key.shape[1]
        k, v = (x.repeat_interleave(shared, 1).float() for x in (key, value))
        scores = query.float() @ k.mT * attention.scale  # (B, H, T, T)
        t = torch.arange(scores.shape[-1], device=scores.device)
        scores = scores.masked_fill(t > t[:, None], float("-inf"))
        at = self.positions[:, None, None, None]
        blocked = (t == at) & (t[:, None] > at)  # (B, 1, T, T)
        if self.heads is not None:
            blocked = blocked & self.heads[self.place[module.layer_idx]][None, :, None, None]
        if self.moved_to is None:
            weights = scores.masked_fill(blocked, float("-inf")).softmax(-1)
        else:
            weights = scores.softmax(-1)
            taken = (weights * blocked).sum(-1, keepdim=True)  # (B, H, T, 1)
            weights = weights.masked_fill(blocked, 0) + taken * (t == self.moved_to[:, None, None, None])
        return (weights @ v).to(value.dtype)


@torch.no_grad()
def knock_out(
    model: nn.Module,
    ids: Int[Tensor, "N"],
    positions: Int[Tensor, "B"],
    *,
    answer: slice | None = None,
    distances: int = 100,
    heads: Bool[Tensor, "L H"] | None = None,
    moved_to: Int[Tensor, "B"] | None = None,
) -> Effect:
    """The effect of B knock-outs in one text, all in one pass.

    Args:
        model: a causal LM of full softmax attention.
        ids: prompt and response.
        positions: each with a token behind it.
        answer: the tokens of the answer in `ids`.
        distances: D of `Effect.kl`.
        heads, moved_to: see `KnockOut`; a position that gets the weight must stand before every token that would lose
            it, so not behind `positions`.

    Raises:
        InputError: a position outside the text or without a token behind it; weight moved to a later position.
        UnsupportedAttention: the model has another attention.
    """
    model = language_model(model)
    length = len(ids)
    if len(positions) == 0 or int(positions.min()) < 0 or int(positions.max()) >= length - 1:
        raise InputError(f"positions must have a token behind them in a text of {length} tokens")
    if moved_to is not None and bool((moved_to > positions).any()):
        raise InputError("weight cannot be moved to a position that some later tokens do not see")
    function = KnockOut(positions, heads, moved_to, attention_layers(model))
    untouched = KnockOut(positions[:1].new_tensor([length]), None, None, attention_layers(model))
    with exclusive(model):
        with described_attention(model, untouched):
            before = hidden_states(model, ids[None])[0]  # (N, D)
        with described_attention(model, function):
            after = hidden_states(model, ids.expand(len(positions), -1))  # (B, N, D)
        head = output_head(model)
        kl, change = _differences(model, head, before, after, ids)  # (B, N - 1) each, of row t
    place = positions[:, None] + torch.arange(1, distances + 1, device=ids.device)  # (B, D) rows behind
    inside = place < length - 1
    found = kl.gather(1, place.clamp(max=length - 2)).masked_fill(~inside, float("nan"))
    row = torch.arange(length - 1, device=ids.device)
    behind = row >= positions[:, None] + 1  # rows that predict a token after the next one
    own = torch.zeros_like(behind)
    if answer is not None:
        own[:, answer.start - 1 : answer.stop - 1] = True
    of_answer = (change * (own & behind)).sum(1)
    return Effect(
        kl=found,
        rest=(change * behind).sum(1),
        answer=of_answer if answer is not None else torch.full_like(of_answer, float("nan")),
    )


def _differences(
    model: PreTrainedModel,
    head: OutputHead,
    before: Float[Tensor, "N D"],
    after: Float[Tensor, "B N D"],
    ids: Int[Tensor, "N"],
) -> tuple[Float[Tensor, "B N-1"], Float[Tensor, "B N-1"]]:
    """For each row t but the last: KL from the untouched distribution, and the change of log p(token t + 1); nats."""
    kl, change = [], []
    for rows in torch.arange(len(ids) - 1, device=ids.device).split(_ROWS):
        reference = head(before[rows]).float().log_softmax(-1)  # (r, V)
        logp = torch.stack([head(one[rows]).float().log_softmax(-1) for one in after])  # (B, r, V)
        kl.append((reference.exp() * (reference - logp)).sum(-1))
        target = ids[rows + 1][:, None]  # (r, 1)
        change.append((logp.gather(-1, target.expand(len(logp), -1, -1)) - reference.gather(-1, target))[..., 0])
    return torch.cat(kl, 1), torch.cat(change, 1)
