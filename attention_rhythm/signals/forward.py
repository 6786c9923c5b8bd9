"""One forward pass that gives everything: head statistics of the sampled layers, and entropy and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import (
    check_readable,
    exclusive,
    fresh_positions,
    language_model,
    read_alone,
)
from attention_rhythm.signals.attention import described_attention
from attention_rhythm.signals.entropy import output_head, response_entropy
from attention_rhythm.signals.own_pass import check_own_pass, hidden_states
from attention_rhythm.signals.streaming import HeadStatistics, Horizon, SignalRecorder, in_batches


@torch.no_grad()
def forward_statistics(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    layers: Sequence[int],
    window: int,
    horizons: Sequence[Horizon],
    lengths: Int[Tensor, "B"] | None = None,
) -> tuple[HeadStatistics, Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Head statistics, entropy (nats) and log-probability (nats) of right-padded sequences, in one pass over the model.

    The signals cost no pass of their own here: this is the old-log-prob pass of an RL step with a recorder in it.
    lengths: of the sequences; None: each ends with its response.
    """
    model = language_model(model)
    check_readable(model, input_ids.shape[1])
    check_own_pass(model)

    def read(rows: Tensor, width: int) -> tuple[HeadStatistics, tuple[Tensor, ...]]:
        ids, own = input_ids[rows, :width], response[rows, :width]
        recorder = SignalRecorder(layers, own, window, horizons)
        with described_attention(model, recorder):
            hidden = hidden_states(model, ids)
        return recorder.statistics(), response_entropy(hidden, output_head(model), ids, own)

    statistics, (entropy, logprob) = in_batches(model, response, lengths, read)
    return statistics, entropy, logprob


@torch.no_grad()
def response_statistics(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    lengths: Int[Tensor, "B"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Entropy (nats) and log-probability (nats) alone, of right-padded sequences of these lengths."""
    model = language_model(model)
    check_readable(model, input_ids.shape[1])
    check_own_pass(model)
    entropy = torch.full(response.shape, float("nan"), device=input_ids.device)
    logprob = entropy.clone()
    with exclusive(model):
        for rows, width in read_alone(model, lengths, input_ids.shape[1]):
            ids, own = input_ids[rows, :width], response[rows, :width]
            with fresh_positions(model):
                hidden = hidden_states(model, ids)
            entropy[rows, :width], logprob[rows, :width] = response_entropy(hidden, output_head(model), ids, own)
    return entropy, logprob
