"""One forward pass that gives everything: head statistics of the sampled layers, and entropy and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.signals.entropy import output_head, response_entropy
from attention_rhythm.signals.plain_attention import replaced_attention
from attention_rhythm.signals.streaming import HeadStatistics, Horizon, SignalRecorder


@torch.no_grad()
def forward_statistics(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    layers: Sequence[int],
    window: int,
    horizons: Sequence[Horizon],
) -> tuple[HeadStatistics, Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Head statistics, entropy (nats) and log-probability (nats) of right-padded sequences, in one pass over the model.

    The signals cost no pass of their own here: this is the old-log-prob pass of an RL step with a recorder in it.
    """
    recorder = SignalRecorder(layers, response, window, horizons)
    head = output_head(model)
    with replaced_attention(model, recorder):
        hidden = model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
    return recorder.statistics(), *response_entropy(hidden, head, input_ids, response)
