"""The passes over a model: signals alone, entropy and log-probabilities alone, or all from one.

Right-padded sequences go in, of any model; how they are read, in one row, each alone or in pieces, is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attention_rhythm.signals import pieces
from attention_rhythm.signals.architecture import (
    UnsupportedAttention,
    attention_modules,
    check_readable,
    exclusive,
    fresh_positions,
    hidden_states,
    language_model,
    read_alone,
    rounding,
    text_config,
)
from attention_rhythm.signals.attention import (
    attention_of_layers,
    check_called_once,
    check_implementation,
    described_attention,
)
from attention_rhythm.signals.compact import Compact, compact_batch, compact_hidden_states
from attention_rhythm.signals.entropy import output_head, response_entropy
from attention_rhythm.signals.streaming import (
    HeadStatistics,
    Horizon,
    LastLayerRead,
    SignalRecorder,
    ends,
    one_below_another,
    together,
)

_causal: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@torch.no_grad()
def is_causal(model: PreTrainedModel) -> bool:
    """Whether tokens change nothing for those before them, shown on a few tokens, once for each model."""
    if model not in _causal:
        ids = torch.arange(6, device=model.device).repeat(2, 1) + text_config(model).vocab_size // 2  # (2, 6)
        ids[1, 3:] = ids[1, 3:].flip(0)
        with exclusive(model), fresh_positions(model):
            one, other = hidden_states(model, ids)[:, :3].float()
        _causal[model] = bool((one - other).abs().max() <= rounding(model) * one.abs().max())
    return _causal[model]


_CHOOSING = ("indexed", "compressed")  # kinds of layers that choose or join keys, from some length on


def batches_without_padding(
    model: PreTrainedModel, lengths: Int[Tensor, "B"], width: int
) -> list[tuple[Int[Tensor, "b"], int]]:
    """Right-padded rows that may stand in one batch of the model's own pass, with its width.

    All of them where it is known that no token sees what stands behind it. Else each alone: where positions follow from
    the length, and where layers make masks of their own, by which what stands behind may displace what stands before.

    UnsupportedAttention: tokens see what comes after them.
    """
    if not is_causal(model):
        raise UnsupportedAttention(f"{model.config.model_type} is not causal: its tokens see what comes after them")
    if model not in _keys_known:
        _keys_known[model] = _knows_its_keys(model)
    return read_alone(model, lengths, width, always=not _keys_known[model])


_keys_known: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _knows_its_keys(model: PreTrainedModel) -> bool:
    """Whether which keys a token sees follows from its place alone, in every layer of attention."""
    kinds = getattr(text_config(model), "layer_types", None) or ()
    if any(word in kind for kind in kinds for word in _CHOOSING):
        return False
    try:
        return not attention_modules(model) or bool(attention_of_layers(model))
    except UnsupportedAttention:
        return False


def in_batches(
    model: PreTrainedModel,
    response: Bool[Tensor, "B N"],
    lengths: Int[Tensor, "B"],
    read: Callable[[Tensor, int], tuple[HeadStatistics, tuple[Tensor, ...]]],
) -> tuple[HeadStatistics, tuple[Tensor, ...]]:
    """`read(rows, width)` of the rows that may stand in one batch, put together; NaN where a row was cut."""
    width = response.shape[1]
    parts = []
    for rows, own in read_alone(model, lengths, width):
        with fresh_positions(model):
            parts.append(read(rows, own))
    if len(parts) == 1 and parts[0][0].waad.shape[-1] == width:
        return parts[0]

    others = tuple(one_below_another(list(x), width) for x in zip(*(part[1] for part in parts), strict=True))
    return together([part[0] for part in parts], width), others


def _recorders(
    batch: Compact, layers: Sequence[int], response: Bool[Tensor, "B N"], window: int, horizons: Sequence[Horizon]
) -> list[SignalRecorder]:
    """One for each group of a batch in one row."""
    return [SignalRecorder(layers, response[g.rows, : g.width], window, horizons) for g in batch.groups]


def _of_batch(batch: Compact, recorders: Sequence[SignalRecorder], width: int) -> HeadStatistics:
    """What the recorders of the groups have gathered, in the order of the sequences."""
    in_order = torch.cat([group.rows for group in batch.groups]).argsort()
    return together([recorder.statistics() for recorder in recorders], width).at(in_order)


@torch.no_grad()
def head_statistics(
    model: nn.Module,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    layers: Sequence[int],
    window: int,
    horizons: Sequence[Horizon],
    lengths: Int[Tensor, "B"] | None = None,
) -> HeadStatistics:
    """One forward pass over right-padded sequences that ends after the last sampled layer (no logits, no masks).

    Where a token's positions depend on the length of the batch (dynamic NTK, LongRoPE), one pass for each sequence.
    lengths: of the sequences; None: each ends with its response.

    UnsupportedAttention: an attention that is not understood, or a layer that attends twice.
    """
    model = language_model(model)
    check_readable(model, input_ids.shape[1])
    check_called_once(model, layers)  # the pass ends before the second time

    lengths = ends(response) if lengths is None else lengths

    def read(rows: Tensor, width: int) -> tuple[HeadStatistics, tuple[()]]:
        ids, own = input_ids[rows, :width], response[rows, :width]
        if pieces.known(model, width):
            recorder: SignalRecorder = pieces.PieceRecorder(layers, own, window, horizons, early_exit=True)
            with described_attention(model, recorder), pieces.layers_in_pieces(model), suppress(LastLayerRead):
                hidden_states(model, ids)
            return recorder.statistics(), ()
        with pieces.mlps_in_pieces(model):
            if batch := compact_batch(model, ids, lengths[rows]):
                recorders = _recorders(batch, layers, own, window, horizons)
                recorders[-1].early_exit = True
                with suppress(LastLayerRead):
                    compact_hidden_states(model, batch, recorders)
                return _of_batch(batch, recorders, width), ()
            recorder = SignalRecorder(layers, own, window, horizons, early_exit=True)
            with described_attention(model, recorder), suppress(LastLayerRead):
                hidden_states(model, ids)
        return recorder.statistics(), ()

    return in_batches(model, response, lengths, read)[0]


@torch.no_grad()
def forward_statistics(
    model: nn.Module,
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
    head = output_head(model)
    lengths = ends(response) if lengths is None else lengths

    def read(rows: Tensor, width: int) -> tuple[HeadStatistics, tuple[Tensor, ...]]:
        ids, own = input_ids[rows, :width], response[rows, :width]
        batch = compact_batch(model, ids, lengths[rows])
        if batch is None:
            recorder = SignalRecorder(layers, own, window, horizons)
            with described_attention(model, recorder):
                hidden = hidden_states(model, ids)
            statistics = recorder.statistics()
        else:
            recorders = _recorders(batch, layers, own, window, horizons)
            hidden = compact_hidden_states(model, batch, recorders)
            statistics = _of_batch(batch, recorders, width)
        return statistics, response_entropy(hidden, head, ids, own)

    statistics, (entropy, logprob) = in_batches(model, response, lengths, read)
    return statistics, entropy, logprob


@torch.no_grad()
def response_statistics(
    model: nn.Module,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    lengths: Int[Tensor, "B"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Entropy (nats) and log-probability (nats) alone, of right-padded sequences of these lengths.

    From the model's own attention, which must leave nothing out (`check_implementation`).

    UnsupportedAttention: see there, and `batches_without_padding`.
    """
    model = language_model(model)
    check_readable(model, input_ids.shape[1])
    check_implementation(model)
    entropy = torch.full(response.shape, float("nan"), device=input_ids.device)
    logprob = entropy.clone()
    with exclusive(model):
        for rows, width in batches_without_padding(model, lengths, input_ids.shape[1]):
            ids, own = input_ids[rows, :width], response[rows, :width]
            batch = compact_batch(model, ids, lengths[rows])
            with fresh_positions(model):
                hidden = hidden_states(model, ids) if batch is None else compact_hidden_states(model, batch)
            entropy[rows, :width], logprob[rows, :width] = response_entropy(hidden, output_head(model), ids, own)
    return entropy, logprob
