"""verl itself, end to end on a CPU: Ray, its trainer, FSDP2 on gloo, the agent loop, the rewards, and the plugin."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("verl")

from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.generation.base import Completion
from attention_rhythm.grpo import group_advantages
from attention_rhythm.integrations.verl.data import write
from attention_rhythm.integrations.verl.launch import CONFIGS, environment
from attention_rhythm.models import load_model
from attention_rhythm.signals.reading import SignalConfig
from training.actors.attn import AttnActor
from training.actors.infer import Rollout, collate
from training.actors.train import response_logp

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "training/checkpoints/countdown-policy"
LIMIT = 900  # seconds: a rollout that failed may hang

pytestmark = pytest.mark.slow


def run(folder: Path, *overrides: str) -> list[dict]:
    """The metrics of each step of verl's main_ppo with the CPU configuration; its log goes to folder/log."""
    chosen = [
        "scale=cpu",
        "task=puzzles",
        f"data.train_files={folder}/data/train.parquet",
        f"data.val_files={folder}/data/test.parquet",
        f"trainer.default_local_dir={folder}/checkpoints",
        "trainer.logger=[console,file]",
        "trainer.v1.trainer_mode=rhythm_dump",
        "actor_rollout_ref.actor.optim.lr=1e-5",  # small steps: the policy stays one that solves puzzles
        *overrides,
    ]
    needed = environment(chosen)
    needed["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'tests/verl'}"
    needed["VERL_USE_EXTERNAL_MODULES"] += ",dump_trainer"
    needed |= {"VERL_FILE_LOGGER_PATH": f"{folder}/metrics.jsonl", "RHYTHM_DUMP": str(folder)}
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-path", str(CONFIGS), "--config-name", "rhythm"]
    kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, *chosen], cwd=ROOT, env=kept | needed, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(timeout=LIMIT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, (folder / "log").read_text()[-3000:]
    return [json.loads(line)["data"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check(metrics: list[dict]) -> None:
    for step in metrics:
        assert abs(step["actor/pg_loss"]) < 10  # finite
        assert step["actor/grad_norm"] > 0
        # 7e-8 on the average. The largest of thousands of tokens is no check: mostly 2e-6 to 6e-6, but 1e-5 in one
        # sample of ten, as far as each of the two float32 passes may be from float64's.
        assert step["training/rollout_probs_diff_mean"] < 1e-6
        assert 0.2 < step["rhythm/gamma_coverage"] < 0.6
        assert step["rhythm/gamma_mean"] > 1
        assert step["rhythm/shaped_advantage_size"] > step["rhythm/raw_advantage_size"] > 0


def dumped(folder: Path, step: int) -> tuple[Rollout, dict]:
    """What verl's trainer had in its queue, as a rollout of the single-machine loop."""
    data = torch.load(folder / f"step{step}.pt", weights_only=False)
    completions = [Completion(r.tolist(), "", [float("nan")] * len(r), "stop") for r in data["responses"]]
    return collate([p.tolist() for p in data["prompts"]], completions, pad_id=0), data


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def finished(request, tmp_path_factory):
    """A run of three steps: the folder and the metrics; on one rank stopped after two of them and resumed."""
    folder, ranks = tmp_path_factory.mktemp("run"), request.param
    write("puzzles", folder / "data", limit=64)
    if ranks == 2:
        return folder, run(folder, "trainer.n_gpus_per_node=2", "algorithm.rhythm.attn=separate")
    settings = ("trainer.save_freq=2", "trainer.resume_mode=auto")
    metrics = run(folder, *settings, "trainer.total_training_steps=2")
    shutil.copy(folder / "metrics.jsonl", folder / "first.jsonl")
    return folder, metrics + run(folder, *settings, "trainer.total_training_steps=3")


def test_every_step_learns_from_shaped_advantages(finished):
    _, metrics = finished
    assert [step["training/global_step"] for step in metrics] == [1, 2, 3]  # so the second run went on from the first
    check(metrics)


@pytest.mark.parametrize("step", [2, 3])
def test_every_rollout_has_the_newest_weights(finished, step):
    folder, _ = finished
    rollout, data = dumped(folder, step)
    assert set(Counter(data["uid"]).values()) == {8}  # of each puzzle: none was lost, and replaced by verl's padding
    model, _ = load_model(str(POLICY))  # the weights before the first update
    with torch.no_grad():
        stale = response_logp(model, rollout.input_ids, rollout.response)[rollout.response]
    sampled, newest = (torch.cat(data[f"{name}_log_probs"]) for name in ("rollout", "old"))  # (tokens,), as stale
    gap = (sampled.exp() - newest.exp()).abs()
    assert gap.quantile(0.999) < 1e-5
    # The weights of before the first update show as 6e-3 and more, the rounding of float32 as some 1e-5 at most.
    assert gap.max() < (sampled.exp() - stale.exp()).abs().max() / 100


def test_gamma_is_that_of_the_single_machine_loop(finished):
    folder, _ = finished
    model, _ = load_model(str(POLICY))
    rollout, data = dumped(folder, 1)  # the first step runs on the policy's own weights
    reading = AttnActor(model, SignalConfig(horizon=(5, 40)), "fused", batch=64).read(rollout)
    gamma = credit_weights(
        rollout.response, CreditConfig(), waad=reading.signals.waad, fai=reading.signals.fai, entropy=reading.entropy
    )
    groups = {uid: number for number, uid in enumerate(dict.fromkeys(data["uid"]))}
    rewards = torch.tensor([float(x.sum()) for x in data["rm_scores"]])
    advantages = group_advantages(rewards, torch.tensor([groups[uid] for uid in data["uid"]]))
    for row, own in enumerate(rollout.response):
        torch.testing.assert_close(data["gamma"][row], gamma[row, own])
        # verl gives a group of equal rewards (0.1 in float32) the noise of their mean, over 1e-6; ours gives it 0
        slack = 1e-5 if advantages[row] else 0.05
        torch.testing.assert_close(data["advantages"][row], gamma[row, own] * advantages[row], atol=slack, rtol=1e-5)
        torch.testing.assert_close(data["old_log_probs"][row], reading.old_logp[row, own], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(data["rollout_log_probs"][row], reading.old_logp[row, own], atol=1e-4, rtol=1e-4)
