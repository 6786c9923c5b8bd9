"""actor_train on Megatron-core: tensor, pipeline and data parallel ranks, the same step as training.actors.train.

`MegatronTrainActor` is what one rank does; every rank calls the same method with the same arguments. Where the ranks
live is in megatron_ranks.py. The whole mini-batch is on every rank, and each computes its part: micro-batches are dealt
out to the data-parallel ranks, sequences without advantage are left out. Megatron-core is imported only when an actor
is made.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from attention_rhythm.errors import UsageError
from attention_rhythm.generation.vllm import MissingEngine
from attention_rhythm.grpo import policy_loss
from attention_rhythm.signals.architecture import UnsupportedAttention, random_parts
from attention_rhythm.signals.attention import attention_of_layers
from training.actors.megatron_cpu import cuda_means_cpu
from training.actors.megatron_weights import place, shard, unshard
from training.actors.train import (
    DivergedError,
    OptimConfig,
    by_length,
    combine,
    loss_denominator,
    require_float32,
    save_batch,
    up_to_its_end,
    with_advantage,
)

FAMILIES = ("llama", "qwen2", "qwen3")
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True)
class Layout:
    """How the work is divided; what is left of the ranks is data parallel, with the distributed optimizer."""

    tensor: int = 1  # ranks that share each matrix
    pipeline: int = 1  # ranks that share the layers
    context: int = 1  # ranks that share a sequence: only 1 is supported
    sequence_parallel: bool = False  # norms and residuals divided among the tensor-parallel ranks too


def check(model: PreTrainedModel, layout: Layout, world: int) -> None:
    """Refuse what cannot be computed, or would be computed wrongly, before any work.

    Args:
        world: ranks in all.

    Raises:
        UsageError: the message names the numbers.
        ValueError: weights that are not float32.
        MissingEngine: Megatron-core is not installed.
    """
    require_float32(model)
    config, t, p = model.config, layout.tensor, layout.pipeline
    kind, rope = config.model_type, getattr(config, "rope_parameters", None) or {}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    reasons = {
        f"a model of type {kind}; there are {', '.join(FAMILIES)}": kind not in FAMILIES,
        f"context parallelism over {layout.context} ranks: it needs Transformer Engine": layout.context != 1,
        f"tensor parallelism over {t} and pipeline parallelism over {p} ranks": min(t, p) < 1,
        f"{world} ranks, which tensor x pipeline = {t} x {p} does not divide": t * p < 1 or world % (t * p) != 0,
        "sequence parallelism without tensor parallelism": layout.sequence_parallel and t < 2,
        f"{config.num_hidden_layers} layers over {p} pipeline ranks": p > 0 and config.num_hidden_layers % p != 0,
        **{
            f"{number} {what} over {t} tensor-parallel ranks": t > 0 and number % t != 0
            for what, number in {
                "attention heads": config.num_attention_heads,
                "key-value heads": config.num_key_value_heads,
                "vocabulary entries": config.vocab_size,
                "MLP units": config.intermediate_size,
            }.items()
        },
        f"rotary positions of type {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        "rotary positions of a part of a head": rope.get("partial_rotary_factor") not in (None, 1.0),
        f"an odd head size of {head_dim}": head_dim % 2 != 0,
        f"activation {config.hidden_act}": config.hidden_act not in ("silu", "swish"),
        "biases in attention or MLP": bool(getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", 0)),
        f"{random_parts(model, training=True)}": random_parts(model, training=True) is not None,
        **(dict.fromkeys(_more_than_plain(model, head_dim**-0.5), True) if kind in FAMILIES else {}),
    }
    if refused := [reason for reason, holds in reasons.items() if holds]:
        raise UsageError(f"Megatron cannot train this: {'; '.join(refused)}")
    if importlib.util.find_spec("megatron") is None or importlib.util.find_spec("megatron.core") is None:
        raise MissingEngine(
            "Megatron-core is not installed in this environment: on a CPU run ./reproduce.sh setup-engines, then use "
            ".venv-engines/bin/python; on a GPU make the environment of environment.yml"
        )


def _more_than_plain(model: PreTrainedModel, scale: float) -> set[str]:
    """What the layers' attention is, by the description that the signals are read by, beyond softmax(scale q k) v."""
    try:
        found = {attention for _, attention in attention_of_layers(model)}
    except UnsupportedAttention as error:
        return {str(error)}
    more = {f"attention with {attention.more_than_plain()}" for attention in found if not attention.plain}
    return more | {f"scores scaled by {a.scale:g}" for a in found if not math.isclose(a.scale, scale, rel_tol=1e-6)}


class MegatronTrainActor:
    """One rank's part of `TrainActor`: the same step and errors. All ranks call a method at once, with the same.

    The weights start as those of `model`. torch.distributed must be initialised: gloo on a CPU, nccl on CUDA.

    Args:
        model: a Hugging Face model with float32 weights; it is read, not kept.
        config, folder, clip_low, clip_high, aggregation: see `TrainActor`. `gradient_checkpointing` recomputes every
            layer in the backward pass.

    Raises:
        UsageError, MissingEngine: see `check`.
        ValueError: weights that are not float32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: OptimConfig,
        folder: Path,
        *,
        layout: Layout,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        aggregation: str = "token_mean",
    ):
        check(model, layout, dist.get_world_size())
        self.config, self.folder, self.layout = config, Path(folder), layout
        self.loss_options = {"clip_low": clip_low, "clip_high": clip_high, "aggregation": aggregation}
        self.steps = 0  # gradient steps done
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        with _megatron():
            from megatron.core import parallel_state
            from megatron.core.tensor_parallel.random import initialize_rng_tracker

            from training.actors import megatron_model

            self.ranks = parallel_state
            parallel_state.initialize_model_parallel(layout.tensor, layout.pipeline)
            initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)  # there is no dropout
            self.heads = megatron_model.heads_of(model.config)
            self.model = megatron_model.build(
                model.config,
                sequence_parallel=layout.sequence_parallel,
                recompute=config.gradient_checkpointing,
                bf16=config.bf16,
                device=self.device,
            )
            first, self.tied = megatron_model.first_layer(self.model), model.config.tie_word_embeddings
            self.parameters = dict(self.model.named_parameters())
            self.places = {name: place(name, first, tied=self.tied) for name in self.parameters}
            self.parallel, self.optimizer = megatron_model.make_optimizer(self.model, config)
            self.load_weights(dict(model.named_parameters()))

    # ----------------------------------------------------------------------------------------- one step

    def step(
        self,
        input_ids: Int[Tensor, "B N"],
        response: Bool[Tensor, "B N"],
        old_logp: Float[Tensor, "B N"],
        advantages: Float[Tensor, "B N"],
    ) -> dict[str, float]:
        """See `TrainActor.step`; the same metrics on every rank."""
        from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

        batch = {"input_ids": input_ids, "response": response, "old_logp": old_logp, "advantages": advantages}
        batch = {name: x.to(self.device) for name, x in batch.items()}
        with _megatron():
            self.parallel.zero_grad_buffer()
            self.optimizer.zero_grad()
            parts = self._of_all_ranks(self._passes(batch))
            if not all(abs(part["loss"] + part["approx_kl"]) < float("inf") for part in parts):  # nor NaN
                self._refuse("loss", batch)
            self.optimizer.prepare_grads()
            norm = float(self.optimizer.get_grad_norm())
            if not norm < float("inf"):
                self._refuse("gradient", batch)
            clip_grad_by_total_norm_fp32(self.optimizer.get_parameters(), self.config.grad_clip, norm)
            self.steps += 1
            lr = self.config.lr_at(self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step_with_ready_grads()
        loss = sum(part["loss"] for part in parts)
        return {**combine(parts), "loss": float(loss), "grad_norm": norm, "lr": lr}

    def _passes(self, batch: dict[str, Tensor]) -> list[dict[str, float]]:
        """Forward and backward passes of this rank's micro-batches; their metrics, on the last pipeline stage."""
        from megatron.core.pipeline_parallel import get_forward_backward_func

        response, parts = batch["response"], []
        denominator = loss_denominator(response, self.loss_options["aggregation"])

        def loss(ids, mask, old_logp, advantages, logits):
            logp = _response_logp(logits, ids, mask)
            value, metrics = policy_loss(logp, old_logp, advantages, mask, denominator=denominator, **self.loss_options)
            parts.append({name: x.item() for name, x in {**metrics, "loss": value}.items()})
            # Megatron divides the gradients by the number of tokens, unless that is 0: they are divided already
            return value, torch.zeros((), dtype=torch.int, device=value.device), {}

        def forward(iterator, model):
            micro_batch = next(iterator)
            ids = micro_batch[0]
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)  # (b, n)
            # logits (b, n, V / tensor); before the last stage hidden states (n, b, D)
            return model(ids, positions, None), partial(loss, *micro_batch)

        micro_batches = self._micro_batches(batch)
        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter(micro_batches or [self._nothing()]),
            model=[self.parallel],
            num_microbatches=max(1, len(micro_batches)),
            seq_length=response.shape[1],
            micro_batch_size=1,  # neither this nor seq_length is read: each tensor's shape is sent ahead of it
            forward_only=False,
        )
        return parts if micro_batches else []

    def _micro_batches(self, batch: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        """This data-parallel rank's share of the sequences that have an advantage, as tensors (b, n) in batch's order.

        Groups of like length, each cut to its longest response.
        """
        response, advantages = batch["response"], batch["advantages"]
        rank, size = self.ranks.get_data_parallel_rank(), self.ranks.get_data_parallel_world_size()
        useful = with_advantage(advantages, response)
        at_once = max(1, min(self.config.micro_batch, -(-len(useful) // size)))
        groups = list(by_length(up_to_its_end(response)[useful], at_once))[rank::size]
        return [
            tuple(F.pad(x[useful[rows], :width], (0, -width % self._multiple)) for x in batch.values())
            for rows, width in groups
        ]

    @property
    def _multiple(self) -> int:
        """Sequence parallelism cuts a sequence into equal parts."""
        return self.layout.tensor if self.layout.sequence_parallel else 1

    def _nothing(self) -> tuple[Tensor, ...]:
        """A micro-batch without loss or gradient, for a rank that has none: Megatron wants a pass of every rank."""
        shape = (1, 2 * self._multiple)
        zeros = torch.zeros(shape, device=self.device)
        return zeros.long(), torch.ones(shape, dtype=torch.bool, device=self.device), zeros, zeros

    def _of_all_ranks(self, parts: list[dict[str, float]]) -> list[dict[str, float]]:
        """The metrics of every micro-batch, on every rank; tensor-parallel ranks have the same ones."""
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, parts if self.ranks.get_tensor_model_parallel_rank() == 0 else [])
        return [part for parts in gathered for part in parts]

    def _refuse(self, what: str, batch: dict[str, Tensor]) -> None:
        path = self.folder / f"diverged-{self.steps:06d}.safetensors"
        if dist.get_rank() == 0:
            save_batch(path, batch)
        raise DivergedError(f"gradient step {self.steps}: NaN or inf in the {what}; its batch is in {path.name}")

    # -------------------------------------------------------------------------------- weights and state

    @torch.no_grad()
    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the weights of a Hugging Face model, under its names (a tied head is not among them)."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self._shard(name, tensors))

    def export(self) -> dict[str, Tensor]:
        """The weights under their Hugging Face names, on the CPU of rank 0; nothing on the other ranks."""
        return self._whole({name: parameter.detach() for name, parameter in self.parameters.items()})

    def step_and_export(self, *batch: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
        """`step`, then `export`."""
        return self.step(*batch), self.export()

    def state_dict(self) -> dict[str, Any]:
        """Steps done and AdamW's moments under the Hugging Face names of their weights, whatever the layout.

        Whole on rank 0, without moments on the others.
        """
        return {"steps": self.steps, "optimizer": {key: self._whole(self._moments(key)) for key in MOMENTS}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict` (rank 0's), also under another layout; and the weights that it belongs to."""
        self.load_weights(tensors)
        self.steps = state["steps"]
        for name, parameter in self.parameters.items():
            if parameter not in self.optimizer.model_param_gbuf_map:
                continue  # all of it belongs to other data-parallel ranks
            main, own = self._main(parameter)
            moments = {
                key: self._shard(name, state["optimizer"][key]).to(main.device).flatten()[own].clone()
                for key in MOMENTS
                if state["optimizer"][key]
            }
            self.optimizer.optimizer.state[main] = {"step": torch.tensor(float(self.steps)), **moments}
            if not moments:
                del self.optimizer.optimizer.state[main]

    def _main(self, parameter: torch.nn.Parameter) -> tuple[Tensor, slice]:
        """What the optimizer updates of `parameter` on this rank, and where that is in the flat parameter."""
        group, order = self.optimizer.model_param_group_index_map[parameter]
        span = self.optimizer._get_model_param_range_map(parameter)["param"]
        return self.optimizer.optimizer.param_groups[group]["params"][order], slice(span.start, span.end)

    def _moments(self, key: str) -> dict[str, Tensor]:
        """One of AdamW's moments for each parameter of this rank's model, gathered from the data-parallel ranks."""
        if self.steps == 0:
            return {}
        result = {}
        for name, parameter in self.parameters.items():
            result[name] = whole = torch.zeros_like(parameter)
            if parameter in self.optimizer.model_param_gbuf_map:
                main, own = self._main(parameter)
                whole.view(-1)[own] = self.optimizer.optimizer.state[main][key]
            dist.all_reduce(whole, group=self.ranks.get_data_parallel_group())
        return result

    def _shard(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        rank, size = self.ranks.get_tensor_model_parallel_rank(), self.ranks.get_tensor_model_parallel_world_size()
        return shard(self.places[name], tensors, self.heads, rank, size)

    def _whole(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that are shaped like this rank's parameters as those of the whole Hugging Face model, on rank 0."""
        size, group = self.ranks.get_tensor_model_parallel_world_size(), self.ranks.get_tensor_model_parallel_group()
        result: dict[str, Tensor] = {}
        for name, value in values.items():
            shards = [torch.empty_like(value) for _ in range(size)]
            dist.all_gather(shards, value.contiguous(), group=group)
            tensors = unshard(self.places[name], shards, self.heads)
            result = {**{key: x.contiguous().cpu() for key, x in tensors.items()}, **result}
        stages = self.ranks.get_pipeline_model_parallel_group()
        first = dist.get_global_rank(stages, 0)
        gathered: list[Any] | None = [None] * stages.size() if dist.get_rank() == first else None
        dist.gather_object(result, gathered, dst=first, group=stages)
        if dist.get_rank() != 0 or gathered is None:
            return {}
        return {key: x for stage in reversed(gathered) for key, x in stage.items()}


@contextmanager
def _megatron() -> Iterator[None]:
    """For Megatron's code; without its warnings, of deprecated names and that Transformer Engine is not installed."""
    with warnings.catch_warnings(action="ignore"), cuda_means_cpu():
        yield


def _response_logp(
    logits: Float[Tensor, "b n v"], ids: Int[Tensor, "b n"], response: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """`training.actors.train.response_logp` of logits whose vocabulary is divided among the tensor-parallel ranks."""
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    predicted = response.clone()
    predicted[:, 0] = False  # nothing predicts the first token of a sequence
    # (M, v): by indexing a copy, for Megatron's cross entropy overwrites what it is given
    logits = logits[:, :-1][predicted[:, 1:]].float()
    logp = -vocab_parallel_cross_entropy(logits, ids[predicted])  # (M,)
    return torch.zeros(response.shape, device=logp.device).masked_scatter(predicted, logp)
