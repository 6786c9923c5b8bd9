"""What readings of a model are held to: the model itself, in float64, on each sequence alone."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import language_model, layers_to_read
from attention_rhythm.signals.forward import forward_statistics, response_statistics
from attention_rhythm.signals.reading import SignalConfig

EVERY_LAYER = SignalConfig(window=6, horizon=(2, 20), layers="all", num_layers=None)

Batch = tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"], Bool[Tensor, "B N"]]  # ids, attention mask, response mask


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of it in float64, with eager attention and experts that are computed one by one."""
    other = copy.deepcopy(model).double()
    other.set_attn_implementation("eager")
    other.config.get_text_config()._experts_implementation = "eager"
    return other


@torch.no_grad()
def own_logp(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "B N"]:
    """Log-probability (nats) of the response tokens: one pass of a fresh copy for each sequence; NaN elsewhere."""
    ids, attention, response = batch
    result = torch.full(ids.shape, float("nan"))
    for b, own in enumerate(attention):
        alone = ids[b : b + 1, own]
        logits = copy.deepcopy(model)(input_ids=alone, use_cache=False).logits[0, :-1]  # (n - 1, V)
        logp = logits.log_softmax(-1).gather(-1, alone[0, 1:, None])[:, 0]
        result[b, own.nonzero()[1:, 0]] = logp.float()
    return result.masked_fill(~response, float("nan"))


def logp_of_both_passes(model: nn.Module, batch: Batch) -> dict[str, Float[Tensor, "B N"]]:
    """Log-probabilities (nats) as the library reads them from right-padded sequences: with the signals, and without."""
    ids, attention, response = batch
    layers, lengths = layers_to_read(language_model(model), "all", None), attention.sum(1)
    fused = forward_statistics(model, ids, response, layers, EVERY_LAYER.window, [EVERY_LAYER.horizon], lengths)[2]
    return {"fused": fused, "no signals": response_statistics(model, ids, response, lengths)[1]}
