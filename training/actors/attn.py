"""actor_attn: attention signals, token entropy and old log-probabilities of a rollout, in one of three ways.

    fused     the signals are recorded inside the old-log-prob pass: no pass and no copy of the weights of their own
    separate  the paper's auxiliary pass, which streams and stops after the last layer read; then the old-log-prob pass
    dense     the paper's eager pass with N x N maps; then the old-log-prob pass

All three give the same gamma, in float32. Under bfloat16 autocast (CUDA) the fused signals are those of the bfloat16
pass, the other two those of a float32 pass.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attention_rhythm.memory import in_halves
from attention_rhythm.signals.architecture import language_model, layers_to_read
from attention_rhythm.signals.forward import forward_statistics, response_statistics
from attention_rhythm.signals.reading import SignalConfig, Signals, attention_signals, combine_heads
from training.actors.infer import Rollout
from training.actors.train import by_length, precision

MODES = ("fused", "separate", "dense")


@dataclass(frozen=True)
class Reading:
    """What the actor read from a rollout: float32, detached, on the model's device; NaN outside the response."""

    old_logp: Float[Tensor, "B N"]  # nats
    entropy: Float[Tensor, "B N"]  # nats, of the distribution that token t was drawn from
    signals: Signals | None  # None where they were not asked for


class AttnActor:
    """Reads signals from `model`, the very module that is trained.

    Args:
        mode: fused | separate | dense.
        batch: sequences in one forward pass.
        bf16: bfloat16 autocast on CUDA, as in the training pass, so that the first ratio of a batch is 1.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, model: PreTrainedModel, config: SignalConfig, mode: str, batch: int, *, bf16: bool = True):
        if mode not in MODES:
            raise ValueError(f"attn must be one of {', '.join(MODES)}, not {mode!r}")
        self.model, self.config, self.mode, self.batch, self.bf16 = model, config, mode, batch, bf16

    @torch.no_grad()
    def read(self, rollout: Rollout, *, signals: bool = True) -> Reading:
        """Old log-probabilities and entropy of every response token, and the signals if asked for.

        Sequences are read in groups of like length, each cut to its longest; what stands in whose group changes nothing
        but rounding.
        """
        tensors = (rollout.input_ids, rollout.attention, rollout.response)
        parts: list[Reading] = []
        groups = list(by_length(rollout.attention, self.batch))
        for rows, width in groups:
            parts += in_halves(
                lambda few, width=width: [self._read(*(x[few, :width] for x in tensors), signals)],
                rows,
                "forward_batch",
            )
        rows = torch.cat([rows for rows, _ in groups])
        width = rollout.input_ids.shape[1]
        old_logp, entropy = (
            _gather([getattr(part, name) for part in parts], rows, width) for name in ("old_logp", "entropy")
        )
        if not signals:
            return Reading(old_logp, entropy, None)
        read = [part.signals for part in parts]
        names = [f.name for f in fields(Signals) if f.name != "layers"]
        gathered = {name: _gather([getattr(s, name) for s in read], rows, width) for name in names}
        return Reading(old_logp, entropy, Signals(layers=read[0].layers, **gathered))

    def _read(
        self, ids: Int[Tensor, "B N"], attention: Bool[Tensor, "B N"], response: Bool[Tensor, "B N"], signals: bool
    ) -> Reading:
        if signals and self.mode == "fused":
            return fused_pass(self.model, ids, attention, response, self.config, bf16=self.bf16)
        with precision(self.model, self.bf16):
            entropy, old_logp = response_statistics(self.model, ids, response, attention.sum(1))
        if not signals:
            return Reading(old_logp, entropy, None)
        method = {"separate": "streaming", "dense": "dense"}[self.mode]
        read = attention_signals(self.model, ids, attention, response, self.config, method=method)
        return Reading(old_logp, entropy, read)


def fused_pass(
    model: nn.Module,
    ids: Int[Tensor, "B N"],
    attention: Bool[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
    config: SignalConfig,
    *,
    bf16: bool,
) -> Reading:
    """One pass over right-padded sequences gives all."""
    model = language_model(model)
    layers = layers_to_read(model, config.layers, config.num_layers)
    with precision(model, bf16):
        read, entropy, old_logp = forward_statistics(
            model, ids, response, layers, config.window, [config.horizon], attention.sum(1)
        )
    signals = combine_heads(read.span, read.waad, read.fai[0], layers, attention, response, config)
    return Reading(old_logp, entropy, signals)


def _gather(parts: list[Tensor], rows: Int[Tensor, "B"], width: int) -> Tensor:
    """Parts (b, n) or (b, L, H) in the order of `rows`, as one tensor in the rollout's order; NaN where it was cut."""
    if parts[0].ndim == 2:
        parts = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=float("nan")) for part in parts]
    return torch.cat(parts)[rows.argsort()]
