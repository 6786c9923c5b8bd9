"""verl's synchronous trainer, with advantages shaped by credit between the group advantage and the update (Eq. 12)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf, open_dict
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer
from verl.workers.utils.padding import response_to_nested

from attention_rhythm.credit import SIGNALS, check_credited, credit_weights, shape_advantages
from attention_rhythm.integrations.verl.engine import REQUEST
from attention_rhythm.integrations.verl.settings import TRAINER, RhythmConfig, check


@register_trainer(TRAINER)
class RhythmTrainer(PPOTrainerSync):
    """`trainer.v1.trainer_mode=rhythm`. RhythmConfigError, before any work, for what cannot be right."""

    def __init__(self, config: DictConfig):
        self.rhythm = RhythmConfig.parse(OmegaConf.to_container(config.algorithm.get("rhythm", {}), resolve=True))
        check(config, self.rhythm)
        with open_dict(config):  # verl asks for this name to tell the synchronous trainer from the others
            config.trainer.v1.trainer_mode = "sync"
        self.credited = False  # whether gamma has ever differed from 1
        super().__init__(config)

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        if self.rhythm.needed and self.rhythm.attn == "fused":
            batch.extra_info[REQUEST] = self._request()
        return answered(super()._compute_old_log_prob(batch, metrics))

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        if self.rhythm.needed and self.rhythm.attn != "fused":
            with marked_timer("signals", self.timing_raw):
                batch.extra_info |= {
                    REQUEST: self._request(),
                    "compute_loss": False,
                    "calculate_entropy": False,
                    "temperature": self.config.actor_rollout_ref.rollout.temperature,
                }
                self.actor_rollout_wg.compute_log_prob(batch)
                batch = answered(batch)
        with marked_timer("credit", self.timing_raw):
            return self._shape(batch, metrics)

    def _request(self) -> dict[str, Any]:
        return {"attn": self.rhythm.attn, "signals": asdict(self.rhythm.signals)}

    def _shape(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Replace the advantages in the queue by shaped ones, and put gamma beside them.

        RuntimeError: the workers have given no signals.
        """
        signals = SIGNALS[self.rhythm.credit.strategy]
        fields = ["response_mask", "advantages", "entropy", *(name for name in signals if name != "entropy")]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        given = set(data.keys())
        if missing := [name for name in signals if name not in given]:
            raise RuntimeError(
                f"the workers gave no {missing[0]}: they have not loaded the plugin (on every machine pip install -e .,"
                f" or VERL_USE_EXTERNAL_MODULES={__package__}.plugin in the environment), or they run on a device that"
                " it does not know"
            )
        padded = {
            name: data[name].to_padded_tensor(0.0 if name == "advantages" else float("nan"))
            for name in fields[1:]
            if name in given  # bypass mode has no entropy
        }
        response = data["response_mask"].to_padded_tensor(0).bool()  # (B, R); a row of verl's own padding has none
        gamma = credit_weights(
            response,
            self.rhythm.credit,
            **{name: padded[name] for name in signals},
            generator=torch.Generator().manual_seed(self.rhythm.seed + self.global_steps),
        )
        self.credited = check_credited(self.credited, gamma, self.rhythm.credit, self.rhythm.signals.horizon[0])
        shaped = shape_advantages(padded["advantages"], gamma, self.rhythm.credit.sign)
        metrics.update(credit_metrics(response, padded["advantages"], gamma, shaped, padded.get("entropy")))
        written = {
            name: response_to_nested(x, data["response_mask"]) for name, x in (("advantages", shaped), ("gamma", gamma))
        }
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict(written, batch_size=len(batch)),
        )


def answered(batch: KVBatchMeta) -> KVBatchMeta:
    """The batch without its request: the passes that follow, a reference policy's too, must not answer it again."""
    batch.extra_info.pop(REQUEST, None)
    return batch


def credit_metrics(
    response: Tensor, raw: Tensor, gamma: Tensor, shaped: Tensor, entropy: Tensor | None
) -> dict[str, float]:
    """Means over response tokens; all arguments (B, R). verl's critic/advantages/* are of the shaped advantages."""
    tokens = {"raw": raw[response], "shaped": shaped[response]}
    return {
        "rhythm/gamma_coverage": (gamma != 1)[response].float().mean().item(),
        "rhythm/gamma_mean": gamma[response].mean().item(),
        **{f"rhythm/{name}_advantage_mean": x.mean().item() for name, x in tokens.items()},
        **{f"rhythm/{name}_advantage_size": x.abs().mean().item() for name, x in tokens.items()},
        **({"rhythm/entropy_ties": entropy_ties(response, entropy)} if entropy is not None else {}),
    }


def entropy_ties(response: Tensor, entropy: Tensor) -> float:
    """Share of response tokens whose entropy another token of the response has too; both (B, N).

    In bfloat16 the order of such tokens, and with it the choice of the `entropy` strategy, is that of their places.
    """
    tied = 0
    for row, own in zip(entropy, response, strict=True):
        tied += int(own.sum()) - int(torch.unique(row[own], return_counts=True)[1].eq(1).sum())
    return tied / max(1, int(response.sum()))
