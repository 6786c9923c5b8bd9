"""What a generator is, whatever engine is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from attention_rhythm.errors import NotFinite, ReproError


class GenerationError(ReproError, RuntimeError):
    """Generation cannot go on (a prompt longer than the context, NaN in the logits); the message says what to do."""


class BrokenLogits(NotFinite, GenerationError):
    """NaN or inf in what a model predicts."""


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn."""

    max_new_tokens: int = 256
    temperature: float = 1.0  # 0: greedy
    samples: int = 1  # completions for each prompt
    seed: int = 0  # a completion depends on (seed, prompt, sample number) alone, never on its batch
    ignore_eos: bool = False  # go on to max_new_tokens: for benchmarks


@dataclass(frozen=True)
class Completion:
    """One completion. `logprobs` are the model's own (temperature 1), in nats, one for each of `token_ids`."""

    token_ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: str  # "stop": ended by itself (the stop token is the last of token_ids) | "length"


class Prefix(NamedTuple):
    """The beginning of a text, then a token: what is continued."""

    text: int  # which of the texts
    visible: int  # tokens of it, at least one
    first: int  # the token that follows them
    limit: int  # most tokens to generate, at least one


class Generator(Protocol):
    """Anything that completes prompts."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Completion]:
        """Complete prompts given as token ids: `sampling.samples` completions for each, prompt by prompt."""
        ...

    def continue_prefixes(
        self, texts: Sequence[Sequence[int]], prefixes: Sequence[Prefix], samples: int, seed: int
    ) -> list[list[list[int]]]:
        """Token ids of `samples` continuations of each prefix at T = 1, a stop token included, prefix by prefix.

        A continuation depends on the seed, its prefix and the number of the sample alone; prefixes of one text share
        what they have in common.
        """
        ...

    def update_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over new weights, under the parameter names of the Hugging Face model."""
        ...
