"""What of a model the hook may be in: verl's engine runs the pass, in batches and with an attention of its choice.

All of it is said by the description that the signals are read by. Nothing here needs verl.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    check_readable,
    length_matters,
    text_config,
)
from attention_rhythm.signals.attention import Attention, AttentionFunction, check_kept


def check_recordable(model: PreTrainedModel, length: int) -> None:
    """Refuse a model whose signals would be wrong if they were recorded in a batch of the engine.

    UnsupportedAttention, ValueError: see `check_readable`; positions that depend on what else is in the batch.
    """
    check_readable(model, length)
    if length_matters(model):
        raise UnsupportedAttention(
            f"{model.config.model_type} has rotary positions that depend on the longest sequence of a batch: set"
            " algorithm.rhythm.attn=exported, which reads each sequence alone"
        )


def kept_by_the_engine(model: PreTrainedModel, function: AttentionFunction) -> AttentionFunction:
    """`function`, for layers whose attention the engine's other passes, without a hook, compute as a whole.

    UnsupportedAttention, when it is called: their implementation leaves out a part, so log-probabilities of the pass
    that records would be others than those of the pass that trains.
    """
    implementation = text_config(model)._attn_implementation  # before the hook takes its place

    def attend(module, query, key, value, attention: Attention):
        check_kept(model, attention, implementation)
        return function(module, query, key, value, attention)

    return attend
