"""The trainer of the plugin, which also writes what it shaped: for the test that compares gamma with the loop's."""

import os

import torch
import transfer_queue as tq
from verl.trainer.ppo.v1 import register_trainer

from attention_rhythm.integrations.verl.trainer import RhythmTrainer

FIELDS = ("prompts", "responses", "gamma", "advantages", "rm_scores", "entropy", "old_log_probs", "rollout_log_probs")


@register_trainer("rhythm_dump")
class DumpTrainer(RhythmTrainer):
    def _shape(self, batch, metrics):
        shaped = super()._shape(batch, metrics)
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[*FIELDS, "uid"])
        dumped = {name: [x.clone() for x in data[name].unbind()] for name in FIELDS} | {"uid": list(data["uid"])}
        torch.save(dumped, f"{os.environ['RHYTHM_DUMP']}/step{self.global_steps}.pt")
        return shaped
