"""actor_infer: generates the responses of a batch with any engine, and takes over new weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.generation.base import Completion, Generator, SamplingConfig
from attention_rhythm.generation.resumable import generate_in_parts


@dataclass(frozen=True)
class Rollout:
    """Prompts with their responses, padded on the right, so that a causal pass needs no mask; on the CPU at first."""

    input_ids: Int[Tensor, "B N"]
    attention: Bool[Tensor, "B N"]  # prompt and response
    response: Bool[Tensor, "B N"]
    sampled_logp: Float[Tensor, "B N"]  # nats, as the engine reported them; NaN outside the response
    texts: tuple[str, ...]
    finished: Bool[Tensor, "B"]  # ended by itself, not at the limit

    def to(self, device: torch.device) -> Rollout:
        """The same on another device."""
        names = ("input_ids", "attention", "response", "sampled_logp", "finished")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def collate(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], pad_id: int) -> Rollout:
    """One row for each pair of prompt and completion. ValueError: an empty completion."""
    lengths = [(len(p), len(c.token_ids)) for p, c in zip(prompts, completions, strict=True)]
    if empty := [row for row, (_, answer) in enumerate(lengths) if answer == 0]:
        raise ValueError(f"completion {empty[0]} has no tokens")
    shape = (len(lengths), max(p + r for p, r in lengths))
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    response = torch.zeros(shape, dtype=torch.bool)
    attention = torch.zeros(shape, dtype=torch.bool)
    sampled_logp = torch.full(shape, float("nan"))
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = len(prompt), len(prompt) + len(completion.token_ids)
        input_ids[row, :end] = torch.tensor([*prompt, *completion.token_ids])
        attention[row, :end] = True
        response[row, start:end] = True
        sampled_logp[row, start:end] = torch.tensor(completion.logprobs)
    finished = torch.tensor([c.finish_reason == "stop" for c in completions])
    return Rollout(input_ids, attention, response, sampled_logp, tuple(c.text for c in completions), finished)


class InferActor:
    """Generates with `generator`, at most `batch` responses at a time (but all samples of a prompt together)."""

    def __init__(self, generator: Generator, pad_id: int, batch: int):
        self.generator, self.pad_id, self.batch = generator, pad_id, batch

    def rollout(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> Rollout:
        """`sampling.samples` responses to each prompt (token ids), prompt by prompt."""
        at_once = max(1, self.batch // sampling.samples)
        completions = generate_in_parts(self.generator, prompts, sampling, at_once, "generation_batch")
        return collate([p for p in prompts for _ in range(sampling.samples)], completions, self.pad_id)

    def sync(self, model: PreTrainedModel) -> None:
        """Hand over the weights of `model`; nothing to do where the engine runs that very module."""
        if getattr(self.generator, "model", None) is not model:
            self.generator.update_weights(model.named_parameters())
