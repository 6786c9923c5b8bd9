"""What generation is held to: one full forward pass of prompt and response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from attention_rhythm.generation import proof
from attention_rhythm.generation.base import Completion, GenerationError
from attention_rhythm.generation.choice import cache_decoder, shared_prefix_refusal
from attention_rhythm.generation.conventions import repetition_penalty
from attention_rhythm.models import context_length

_LONG = 1 << 15  # tokens, where a configuration says nothing


def generation_verdict(model: PreTrainedModel) -> str:
    """How a model generates up to its context: "shared prefixes" | "own cache" | "refused: REASON".

    Where rotary frequencies depend on the length, behind a comma the number of tokens that no row may cross.
    """
    try:
        repetition_penalty(model.generation_config)
    except GenerationError as error:
        return f"refused: {error}"
    edges = sorted({regime.original for regime in proof.regimes(model)})
    suffix = f", not across {' and '.join(map(str, edges))} tokens" if edges else ""
    if shared_prefix_refusal(model, context_length(model.config) or _LONG) is None:
        return "shared prefixes" + suffix
    decoder, reason = cache_decoder(model)
    return "own cache" + suffix if decoder is not None else f"refused: {reason}"


@dataclass(frozen=True)
class Distance:
    """How far completions are from one forward pass of prompt and response, in nats; at worst."""

    logprob: float  # of what was reported
    best: float  # of the chosen tokens' log-probabilities from the highest


@torch.no_grad()
def distance(model: PreTrainedModel, prompts: Sequence[list[int]], completions: Sequence[Completion]) -> Distance:
    """Of greedy completions, each held against a pass of its own."""
    logprob = best = 0.0
    for prompt, completion in zip(prompts, completions, strict=True):
        logits = model(input_ids=torch.tensor([prompt + completion.token_ids]), use_cache=False).logits
        predicted = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)  # (T, V)
        chosen = predicted.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        logprob = max(logprob, float((chosen - torch.tensor(completion.logprobs)).abs().max()))
        best = max(best, float((predicted.max(-1).values - chosen).max()))
    return Distance(logprob, best)


def greedy(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """What transformers' own `generate` writes after the prompt."""
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    whole = model.generate(
        torch.tensor([prompt]), attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return whole[0, len(prompt) :].tolist()
