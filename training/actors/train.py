"""actor_train: one AdamW step on the clipped loss of a mini-batch, in micro-batches that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from attention_rhythm.errors import InputError, NotFinite
from attention_rhythm.files import atomic_path
from attention_rhythm.grpo import policy_loss
from attention_rhythm.memory import halved_once
from attention_rhythm.signals.architecture import fresh_positions, hidden_states, random_parts
from attention_rhythm.signals.attention import check_implementation
from attention_rhythm.signals.compact import compact_batch, compact_hidden_states
from attention_rhythm.signals.entropy import output_head
from attention_rhythm.signals.forward import batches_without_padding


class DivergedError(NotFinite):
    """NaN or inf that has stopped a step; the message says where its batch was saved."""


@dataclass(frozen=True)
class OptimConfig:
    """How the weights are updated."""

    lr: float = 1e-6  # learning rate after the warm-up; the default is the paper's
    warmup: int = 10  # gradient steps over which the learning rate rises linearly
    betas: tuple[float, float] = (0.9, 0.999)  # decay of AdamW's moments
    weight_decay: float = 0.0  # of AdamW, on all weights
    grad_clip: float = 1.0  # largest norm of the gradient; inf: no clipping
    micro_batch: int = 32  # sequences in one forward and backward pass; changes memory and speed, not the result
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    bf16: bool = True  # bfloat16 autocast on CUDA; the CPU always computes in float32

    def lr_at(self, step: int) -> float:
        """The learning rate of a gradient step, counted from 1."""
        return self.lr * min(1.0, step / max(1, self.warmup))


def precision(model: PreTrainedModel, bf16: bool) -> AbstractContextManager:
    """Autocast to bfloat16 on CUDA if asked for; on a CPU nothing."""
    return torch.autocast("cuda", torch.bfloat16) if bf16 and model.device.type == "cuda" else nullcontext()


def response_logp(
    model: PreTrainedModel, input_ids: Int[Tensor, "B N"], response: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N"]:
    """Log-probability (nats) of each response token given what stands before it; 0 elsewhere. Differentiable.

    Sequences are padded on the right. Logits exist for response tokens only, and the sums are in float32.

    UnsupportedAttention: see `batches_without_padding`.
    """
    width, lengths = response.shape[1], up_to_its_end(response).sum(1)
    parts = []
    for rows, own in batches_without_padding(model, lengths, width):
        ids = input_ids[rows, :own]
        batch = None if recomputes(model) else compact_batch(model, ids, lengths[rows], plain=True)
        with fresh_positions(model):
            hidden = hidden_states(model, ids) if batch is None else compact_hidden_states(model, batch)  # (b, own, D)
        parts.append(F.pad(_logp_of_hidden(model, hidden, ids, response[rows, :own]), (0, width - own)))
    return torch.cat(parts)


def recomputes(model: PreTrainedModel) -> bool:
    """Whether the backward pass runs layers again: on a GPU in another thread, where their attention is the model's."""
    return bool(getattr(model, "is_gradient_checkpointing", False))


def _logp_of_hidden(
    model: PreTrainedModel, hidden: Float[Tensor, "b n D"], input_ids: Int[Tensor, "b n"], response: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    predicted = response.clone()
    predicted[:, 0] = False  # nothing predicts the first token of a sequence
    logits = output_head(model)(hidden[:, :-1][predicted[:, 1:]]).float()  # (M, V)
    logp = -F.cross_entropy(logits, input_ids[predicted], reduction="none")  # (M,)
    return torch.zeros(response.shape, device=logp.device).masked_scatter(predicted, logp)


def by_length(attention: Bool[Tensor, "B N"], batch: int) -> Iterator[tuple[Int[Tensor, "b"], int]]:
    """Rows of right-padded sequences in groups of at most `batch` of like length, each with its longest length."""
    lengths = attention.sum(1)
    for rows in lengths.argsort(stable=True).split(batch):
        if len(rows):
            yield rows, int(lengths[rows].max())


def with_advantage(advantages: Float[Tensor, "B N"], response: Bool[Tensor, "B N"]) -> Int[Tensor, "b"]:
    """Indices of the sequences that have a gradient: those with an advantage other than 0 (NaN is other than 0)."""
    return ((advantages != 0) & response).any(1).nonzero()[:, 0]


def up_to_its_end(response: Bool[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
    """Positions up to the last response token of each right-padded sequence."""
    position = torch.arange(1, response.shape[1] + 1, device=response.device)
    return position <= (response * position).amax(1, keepdim=True)


def loss_denominator(response: Bool[Tensor, "B N"], aggregation: str) -> Int[Tensor, ""]:
    """How many tokens (token_mean) or sequences (sequence_mean) the loss of a mini-batch is the mean of."""
    return (response if aggregation == "token_mean" else response.any(1)).sum()


def require_float32(model: PreTrainedModel) -> None:
    """ValueError for weights of another type: a step of 1e-6 does not move a bfloat16 weight."""
    if wrong := {p.dtype for p in model.parameters()} - {torch.float32}:
        raise ValueError(f"weights must be float32 to be trained, not {', '.join(map(str, wrong))}")


class TrainActor:
    """Owns the optimizer of `model`, whose weights must be float32.

    Args:
        folder: where a batch that broke the training is saved.
        clip_low, clip_high, aggregation: see `policy_loss`.

    Raises:
        ValueError: weights of another type. InputError: dropout. UnsupportedAttention: see `check_implementation`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: OptimConfig,
        folder: Path,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        aggregation: str = "token_mean",
    ):
        require_float32(model)
        if found := random_parts(model, training=True):
            raise InputError(f"{found} would make every pass another: set it to 0 in the model's configuration")
        check_implementation(model)
        self.model, self.config, self.folder = model, config, folder
        self.loss_options = {"clip_low": clip_low, "clip_high": clip_high, "aggregation": aggregation}
        self.steps = 0  # gradient steps done
        model.requires_grad_(True)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def step(
        self,
        input_ids: Int[Tensor, "B N"],
        response: Bool[Tensor, "B N"],
        old_logp: Float[Tensor, "B N"],
        advantages: Float[Tensor, "B N"],
    ) -> dict[str, float]:
        """One gradient step on right-padded sequences; the metrics of `policy_loss`, and loss, grad_norm and lr.

        A sequence whose advantages are all 0 has neither loss nor gradient: it counts in the mean, but is not computed
        (nor seen by clip_share, approx_kl and the ratios).

        Raises:
            DivergedError: NaN or inf in the loss or the gradient; the weights are those before the step.
        """
        batch = {"input_ids": input_ids, "response": response, "old_logp": old_logp, "advantages": advantages}
        denominator = loss_denominator(response, self.loss_options["aggregation"])
        useful, reach = with_advantage(advantages, response), up_to_its_end(response)

        def gradients(micro_batch: int) -> tuple[list[float], list[dict[str, float]]]:
            for parameter in self.parameters:  # zeros, not None: momentum moves the weights even without a gradient
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
            losses, parts = [], []
            for rows, width in by_length(reach[useful], micro_batch):
                chosen = useful[rows]
                ids, mask, old, advantage = (x[chosen, :width] for x in batch.values())
                with precision(self.model, self.config.bf16):
                    logp = response_logp(self.model, ids, mask)
                loss, metrics = policy_loss(logp, old, advantage, mask, denominator=denominator, **self.loss_options)
                # an infinite ratio may be clipped from the loss
                if not bool(torch.isfinite(loss + metrics["approx_kl"])):
                    self._refuse("loss", {name: x[chosen] for name, x in batch.items()})
                loss.backward()
                losses.append(loss.item())
                parts.append({name: value.item() for name, value in metrics.items()})
            return losses, parts

        self.model.train()
        at_once = max(1, min(self.config.micro_batch, len(useful)))
        losses, parts = halved_once(gradients, at_once, "micro_batch")
        self.model.eval()

        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        if not bool(torch.isfinite(norm)):
            self._refuse("gradient", batch)
        self.steps += 1
        lr = self.config.lr_at(self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return {**combine(parts), "loss": sum(losses), "grad_norm": norm.item(), "lr": lr}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the optimizer."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def close(self) -> None:
        """Nothing to give back; engines that hold processes do so here."""

    def _refuse(self, what: str, batch: dict[str, Tensor]) -> None:
        self.model.eval()
        path = save_batch(self.folder / f"diverged-{self.steps:06d}.safetensors", batch)
        raise DivergedError(f"gradient step {self.steps}: NaN or inf in the {what}; its batch is in {path.name}")


def save_batch(path: Path, batch: dict[str, Tensor]) -> Path:
    """Keep what broke a step, for a person to look at: `safetensors.torch.load_file` reads it."""
    with atomic_path(path) as temporary:
        save_file({name: x.contiguous().cpu() for name, x in batch.items()}, temporary)
    return path


def combine(parts: list[dict[str, float]]) -> dict[str, float]:
    """Metrics of micro-batches as those of their union; NaN where there was none."""
    tokens = sum(part["tokens"] for part in parts)

    def mean(name: str) -> float:
        return sum(part[name] * part["tokens"] for part in parts) / tokens if tokens else float("nan")

    return {
        "tokens": tokens,
        **{name: mean(name) for name in ("clip_share", "approx_kl", "ratio_mean")},
        "ratio_min": min((part["ratio_min"] for part in parts), default=float("nan")),
        "ratio_max": max((part["ratio_max"] for part in parts), default=float("nan")),
    }
