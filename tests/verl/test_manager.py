"""What verl grades: special tokens that were added for the answer are part of it."""

import asyncio
from copy import deepcopy

import pytest

pytest.importorskip("verl")

import numpy as np
import torch
from verl.protocol import DataProto
from verl.trainer.ppo.reward import load_reward_manager

from attention_rhythm.integrations.verl.data import rows
from attention_rhythm.integrations.verl.launch import compose
from attention_rhythm.tasks.base import Problem

PUZZLE = Problem(
    "one", "19, 36, 55, 7 -> 103", "103", "countdown", metadata={"numbers": [19, 36, 55, 7], "target": 103}
)


def test_a_right_answer_in_special_tags_is_worth_one(policy_tokenizer):
    tokenizer = deepcopy(policy_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<answer>", "</answer>"]})
    written = tokenizer("<answer> 19 + 36 + 55 - 7 </answer>", add_special_tokens=False)["input_ids"]
    assert "answer" not in tokenizer.decode(written, skip_special_tokens=True)
    response = torch.tensor([[*written, tokenizer.eos_token_id]])
    row = rows([PUZZLE], "train")[0]
    data = DataProto.from_dict(
        {"responses": response, "attention_mask": torch.ones_like(response)},
        non_tensors={
            name: np.array([row[name]], dtype=object) for name in ("data_source", "reward_model", "extra_info")
        },
    )

    async def score():
        manager = load_reward_manager(compose(["scale=cpu", "task=puzzles"]), tokenizer)
        return await manager.run_single(data)

    assert asyncio.run(score())["reward_score"] == 1.0
