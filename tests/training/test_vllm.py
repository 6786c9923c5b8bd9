"""The training loop with vLLM as actor_infer, in the environment of ./reproduce.sh test engines."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from attention_rhythm.credit import CreditConfig
from attention_rhythm.generation import vllm
from attention_rhythm.generation.vllm import VLLMGenerator
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem
from training.actors.train import OptimConfig
from training.loop import StaleSamplerError, TrainConfig, train

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: ./reproduce.sh test engines"
)

PROBLEMS = [Problem(str(i), "?", "?", "countdown") for i in range(8)]
CONFIG = TrainConfig(
    credit=CreditConfig("coupled_rhythm"),
    signals=SignalConfig(horizon=(1, 10)),
    optim=OptimConfig(lr=1e-2, warmup=1),
    steps=3,
    prompts_per_step=4,
    samples_per_prompt=4,
    gradient_steps=2,
    max_new_tokens=16,
    sampler_gap=1e-3,
)


class Letters:
    """A tokenizer that is enough for a generator."""

    eos_token_id = 96
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i == self.eos_token_id))


@pytest.fixture(params=["tied", "untied"])
def model_and_engine(request, tmp_path):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97, hidden_size=64, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, eos_token_id=96,
        tie_word_embeddings=request.param == "tied",
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    engine = VLLMGenerator(tmp_path / "model", Letters(), block_size=32)
    yield model, engine
    engine.close()


def run(model, engine, folder, config=CONFIG):
    return train(
        model,
        Letters(),
        PROBLEMS,
        folder=folder,
        prompt=lambda problem: [*range(1, 70), int(problem.id)],  # longer than a block: its keys are cached
        reward=lambda problem, text: sum(int(word) < 30 for word in text.split()) / 16,
        config=config,
        generator=engine,
    )


def test_the_engine_has_the_trained_weights_at_every_step(model_and_engine, tmp_path):
    records = run(*model_and_engine, tmp_path / "run")
    assert len(records) == 3
    assert max(record["sampler_gap"] for record in records) < 1e-4  # float32
    assert all(record["grad_norm"] > 0 and 0 < record["gamma_coverage"] < 1 for record in records)


@pytest.mark.parametrize("left_out", ["push", "re-pack", "cache reset"])
def test_a_stale_weight_cannot_pass(model_and_engine, tmp_path, monkeypatch, left_out):
    model, engine = model_and_engine
    if left_out == "push":
        monkeypatch.setattr(engine, "update_weights", lambda named_tensors: None)
    elif left_out == "re-pack":
        if not engine.tied:
            pytest.skip("an untied head is not packed")
        monkeypatch.setattr(vllm, "_repack_head", lambda model: None)
    else:
        monkeypatch.setattr(engine.llm, "reset_prefix_cache", lambda: None)
    with pytest.raises(StaleSamplerError):
        run(model, engine, tmp_path / "run", replace(CONFIG, steps=6, optim=replace(CONFIG.optim, lr=0.05)))
