"""A run that was stopped, at any moment and by any means, goes on as if it had not been."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_rhythm.credit import CreditConfig
from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_jsonl
from tests.support.models import build_trained
from tests.support.training import CONFIG, PROBLEMS, Killed, run, without_seconds
from training import checkpoint
from training.checkpoint import CheckpointError


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.fixture(scope="module")
def straight(letters, tmp_path_factory):
    """Records and model of six steps without a stop."""
    model = build_trained()
    return without_seconds(run(model, letters, tmp_path_factory.mktemp("straight"))), model


# --- runs -------------------------------------------------------------------------------------------------------------


def test_three_steps_and_three_more_are_six(new_model, letters, tmp_path, straight):
    records, model = straight
    run(new_model(), letters, tmp_path, replace(CONFIG, steps=3))
    torch.manual_seed(99)  # a new process has other random states
    random.seed(99)
    resumed = new_model()
    assert without_seconds(run(resumed, letters, tmp_path, resume=True)) == records
    assert same_weights(resumed, model)


@pytest.mark.parametrize("steps_done", [0, 2, 4, 5])
def test_a_run_that_died_within_a_step_goes_on(new_model, letters, tmp_path, straight, steps_done):
    records, model = straight
    with pytest.raises(Killed):
        run(new_model(), letters, tmp_path, kill_at=steps_done)
    assert len(read_jsonl(tmp_path / "metrics.jsonl") if steps_done else []) == steps_done
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 9, "rewa')  # a line half written
    resumed = new_model()
    assert without_seconds(run(resumed, letters, tmp_path, resume=True)) == records
    assert same_weights(resumed, model)


CHILD = """
import sys, time
from pathlib import Path
from tests.support.models import Letters, build_trained
from tests.support.training import CONFIG, run
from dataclasses import replace
import torch
torch.set_num_threads(1)
run(build_trained(), Letters(), Path(sys.argv[1]), replace(CONFIG, steps=100_000, checkpoint_every=1))
"""


def test_kill_9_at_any_moment(new_model, letters, tmp_path):
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while len(checkpoint.steps(tmp_path / "checkpoints")) < 2 and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert child.poll() is None, child.stderr.read()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stderr.close()
    done = checkpoint.load_latest(tmp_path / "checkpoints", new_model())["step"]
    config = replace(CONFIG, steps=done + 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = without_seconds(run(new_model(), letters, tmp_path, config, resume=True))
        assert resumed == without_seconds(run(new_model(), letters, tmp_path / "straight", config))
    finally:
        torch.set_num_threads(threads)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_used(new_model, letters, tmp_path, straight, caplog):
    records, _ = straight
    run(new_model(), letters, tmp_path)
    damage(tmp_path / "checkpoints" / "step-000006" / "model.safetensors")
    resumed = run(new_model(), letters, tmp_path, resume=True)
    assert "step-000006: model.safetensors is missing or damaged" in caplog.text
    assert without_seconds(resumed) == records
    for path in checkpoint.steps(tmp_path / "checkpoints"):
        damage(path / "state.pt")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        run(new_model(), letters, tmp_path, resume=True)


def test_a_run_with_another_model_does_not_go_on(new_model, letters, tmp_path):
    run(new_model(), letters, tmp_path, replace(CONFIG, steps=3))
    with pytest.raises(ReproError, match="its checkpoint is of a run with another model; choose another folder"):
        run(new_model(seed=1), letters, tmp_path, resume=True)
    with pytest.raises(ReproError, match="another model and other seed"):
        run(new_model(seed=1), letters, tmp_path, replace(CONFIG, seed=1), resume=True)


def test_a_run_with_other_problems_of_the_same_number_does_not_go_on(new_model, letters, tmp_path, monkeypatch):
    run(new_model(), letters, tmp_path, replace(CONFIG, steps=3))
    others = [replace(problem, answer="other") for problem in PROBLEMS]
    monkeypatch.setattr("tests.support.training.PROBLEMS", others)
    with pytest.raises(ReproError, match="its checkpoint is of a run with other problems"):
        run(new_model(), letters, tmp_path, resume=True)


def test_a_run_with_other_settings_does_not_go_on(new_model, letters, tmp_path):
    run(new_model(), letters, tmp_path, replace(CONFIG, steps=3))
    with pytest.raises(ReproError, match="other credit, seed"):
        run(new_model(), letters, tmp_path, replace(CONFIG, seed=1, credit=CreditConfig("uniform")), resume=True)


def test_a_run_that_is_done_is_not_done_again(new_model, letters, tmp_path):
    first = run(new_model(), letters, tmp_path)
    assert run(new_model(), letters, tmp_path, resume=True) == first


# --- checkpoints ------------------------------------------------------------------------------------------------------


def damage(path, bit=4):
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    path.write_bytes(data)


def save(folder, step, model, keep=2):
    return checkpoint.save(folder, step, model, {"step": step}, keep=keep)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])  # tied and untied embeddings
def test_what_was_saved_is_read_back(new_model, tmp_path, kind):
    model, other = new_model(kind, seed=1), new_model(kind, seed=2)
    path = save(tmp_path, 7, model)
    assert path.name == "step-000007"
    assert sorted(os.listdir(path)) == ["manifest.json", "model.safetensors", "state.pt"]
    assert checkpoint.load(path, other) == {"step": 7}
    assert same_weights(model, other)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("how", [damage, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_every_kind_of_damage_is_noticed_and_the_model_is_left_alone(new_model, tmp_path, name, how):
    path = save(tmp_path, 1, new_model(seed=1))
    how(path / name)
    model = new_model(seed=2)
    with pytest.raises(ReproError, match=r"damaged|not valid JSON|UTF-8"):
        checkpoint.load(path, model)
    assert same_weights(model, new_model(seed=2))


def test_the_last_k_are_kept(new_model, tmp_path):
    model = new_model()
    for step in (1, 2, 10, 11):
        save(tmp_path, step, model, keep=2)
    assert os.listdir(tmp_path) and [p.name for p in checkpoint.steps(tmp_path)] == ["step-000010", "step-000011"]
    assert checkpoint.latest_step(tmp_path) == 11 and checkpoint.latest_step(tmp_path / "none") == 0
    with pytest.raises(ValueError, match="keep"):
        save(tmp_path, 12, model, keep=0)


def test_a_save_that_fails_leaves_the_ones_before_and_no_rest(new_model, tmp_path, monkeypatch):
    model = new_model()
    save(tmp_path, 1, model)

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(torch, "save", full_disk)
        save(tmp_path, 2, model)
    (tmp_path / ".tmp-1-step-000002").mkdir()  # of a run that was killed
    assert checkpoint.load_latest(tmp_path, model) == {"step": 1}
    save(tmp_path, 3, model)
    assert sorted(os.listdir(tmp_path)) == ["step-000001", "step-000003"]


def test_a_checkpoint_runs_no_code(new_model, tmp_path):
    path = checkpoint.save(tmp_path, 1, new_model(), {"path": tmp_path}, keep=1)  # an object, not a plain value
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(path, new_model())


def test_no_checkpoint_is_no_error(new_model, tmp_path):
    assert checkpoint.load_latest(tmp_path / "none", new_model()) is None


def test_all_random_states_come_back():
    generators = {"own": torch.Generator().manual_seed(5)}

    def draw():
        return [
            random.random(),
            np.random.rand(),
            torch.rand(1).item(),
            torch.rand(1, generator=generators["own"]).item(),
        ]

    states = checkpoint.random_states(generators)
    first = draw()
    assert draw() != first
    checkpoint.restore_random_states(states, generators)
    assert draw() == first
