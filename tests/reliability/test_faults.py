"""What a long run meets besides kill -9. Each fault ends in a clear message, and what was finished stays."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from attention_rhythm import files
from attention_rhythm.errors import ReproError
from attention_rhythm.files import locked, read_json, resume_jsonl, write_json
from attention_rhythm.generation.base import GenerationError, SamplingConfig
from attention_rhythm.generation.conventions import ResponseText
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.generation.vllm import VLLMGenerator
from attention_rhythm.models import load_model
from attention_rhythm.tasks.problems import DataError, _hub_rows, load_problems
from attention_rhythm.tasks.registry import TASKS
from evaluation import run as evaluation_run
from pipeline import cli, running
from tests.support.models import Letters
from tests.support.models import build_trained as build
from tests.support.toy import run as run_toy
from tests.support.toy import set_up
from tests.support.training import CONFIG, without_seconds
from tests.support.training import run as train
from training import checkpoint, runs
from training import run as training_run

KIB = 1 << 10


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return set_up(tmp_path, monkeypatch)


class Disk:
    """A file system of its own, as small as one likes."""

    def __init__(self, path):
        self.path = path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(900 * KIB)`: a disk of that size. Needs root, as in a container."""
    mounted = []

    def mount(size: int) -> Disk:
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        mounted.append(path)
        return Disk(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


# --- a full disk ----------------------------------------------------------------------------------------------------

BIG = torch.rand(200_000)  # 800 kB
WRITES = {
    "text": lambda path: files.write_text(path, "x" * 800_000),
    "json": lambda path: files.write_json(path, list(range(200_000))),
    "jsonl": lambda path: files.write_jsonl(path, ([number] for number in range(200_000))),
    "csv": lambda path: files.write_table(path, pd.DataFrame({"x": BIG.numpy()})),
    "parquet": lambda path: files.write_table(path, pd.DataFrame({"x": BIG.numpy()})),
    "npz": lambda path: files.write_npz(path, x=BIG.numpy()),
    "safetensors": lambda path: _through(path, lambda temporary: save_file({"x": BIG}, temporary)),
    "pt": lambda path: _through(path, lambda temporary: torch.save(BIG, temporary)),
}


def _through(path, write):
    with files.atomic_path(path) as temporary:
        write(temporary)


@pytest.mark.parametrize("suffix", WRITES)
def test_a_full_disk_is_called_so_by_every_writer_and_the_old_file_stays(small_disk, suffix):
    disk = small_disk(200 * KIB)
    path = disk.path / f"a.{suffix}"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left") as caught:
        WRITES[suffix](path)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(disk.path) == [path.name] and path.read_text() == "old"


def test_training_on_a_full_disk_goes_on_from_its_last_checkpoint_when_there_is_room(small_disk, tmp_path):
    undisturbed = without_seconds(train(build(), Letters(), tmp_path / "run"))
    disk, config = small_disk(700 * KIB), replace(CONFIG, checkpoint_every=1)  # a checkpoint has 340 kB
    with pytest.raises(OSError, match="No space left"):
        train(build(), Letters(), disk.path / "run", config)
    kept = checkpoint.steps(disk.path / "run" / "checkpoints")
    assert kept and checkpoint.load_latest(kept[0].parent, build())["step"] == len(kept)
    disk.remount("size=16m")
    assert without_seconds(train(build(), Letters(), disk.path / "run", config, resume=True)) == undisturbed


def test_a_stage_on_a_full_disk_says_so_and_goes_on_when_there_is_room(toy, small_disk, monkeypatch, capsys):
    disk = small_disk(200 * KIB)
    monkeypatch.setattr(running, "RESULTS", disk.path)
    toy.root = disk.path / "toy"
    three, toy.three = toy.three, lambda run, settings: WRITES["pt"](run.path("three.json"))
    assert run_toy(toy) == (1, ["model", "one", "two"])
    err = capsys.readouterr().err
    assert (
        err.startswith("error: stage three: the disk is full (") and "free some space" in err and err.count("\n") == 1
    )
    toy.three = three
    assert run_toy(toy) == (0, ["three"])


# --- a folder that cannot be written --------------------------------------------------------------------------------


def test_a_read_only_results_folder_is_said_and_what_is_there_can_be_read(toy, small_disk, monkeypatch, capsys):
    disk = small_disk(200 * KIB)
    monkeypatch.setattr(running, "RESULTS", disk.path)
    toy.root = disk.path / "toy"
    assert run_toy(toy)[0] == 0
    before = {path: path.read_bytes() for path in disk.path.rglob("*.json")}
    disk.remount("ro")
    capsys.readouterr()
    assert run_toy(toy) == (1, [])
    err = capsys.readouterr().err
    assert "Read-only file system; nothing can be written" in err and err.count("\n") == 1
    assert run_toy(toy, "--dry-run") == (0, [])
    assert {path: path.read_bytes() for path in disk.path.rglob("*.json")} == before


# --- two runs, and the clock ----------------------------------------------------------------------------------------


def test_a_second_run_on_the_same_results_is_refused_and_the_first_ends_well(toy, capsys):
    two, second = toy.two, []

    def two_while_another_starts(run, settings):
        second.append(cli.main(["toy"]))
        two(run, settings)

    toy.two = two_while_another_starts
    assert run_toy(toy) == (0, ["model", "one", "two", "three"])
    assert second == [1]
    assert f"another run (process {os.getpid()}) is writing there" in capsys.readouterr().err


@pytest.mark.parametrize("command", [evaluation_run.main, training_run.main])
def test_a_second_evaluation_or_training_on_the_same_folder_is_refused(tiny_model_folder, tmp_path, capsys, command):
    arguments = ["--model", tiny_model_folder, "--out", str(tmp_path), "--device", "cpu", "--max-new-tokens", "4"]
    arguments += {
        evaluation_run.main: ["--generated", "countdown", "--limit", "1", "--engine", "hf"],
        training_run.main: ["--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--held-out", "1",
                            "--gradient-steps", "1", "--signals.horizon", "0", "2"],
    }[command]  # fmt: skip
    with locked(tmp_path):
        assert command(arguments) == 1
    err = capsys.readouterr().err
    assert f"another run (process {os.getpid()}) is writing there" in err and "Traceback" not in err
    assert os.listdir(tmp_path) == [".lock"]
    assert command(arguments) == 0


def test_a_clock_that_is_set_back_changes_no_duration_and_no_decision(toy, monkeypatch):
    hours = count()

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2020, 1, 1, tzinfo=UTC) - timedelta(hours=next(hours))

    monkeypatch.setattr(running, "datetime", Backwards)
    monkeypatch.setattr("time.time", lambda: -3600.0 * next(hours))
    monkeypatch.setattr("tqdm.std.time", lambda: -3600.0 * next(hours))
    assert run_toy(toy)[0] == 0
    entries = read_json(toy.root / "manifest.json")
    assert all(0 <= entry["wall_seconds"] < 60 for entry in entries.values())
    for moment, name in enumerate(("three.json", "one.json", "model.json")):  # the later the file, the older
        os.utime(toy.root / name, (moment, moment))
    assert run_toy(toy) == (0, [])


def test_training_and_generation_under_a_clock_that_is_set_back(tmp_path, monkeypatch):
    hours = count()
    for clock in ("time.time", "tqdm.std.time"):
        monkeypatch.setattr(clock, lambda: -3600.0 * next(hours))
    for record in train(build(), Letters(), tmp_path / "run", replace(CONFIG, steps=2)):
        assert all(0 <= value < 60 for name, value in record.items() if name.startswith("seconds"))
    engine = FakeEngine()
    assert len(complete(vllm_generator(engine, monkeypatch), REQUESTS, SAMPLING, tmp_path / "p", 2, "t")) == 6


# --- workers and engines that die -----------------------------------------------------------------------------------


def finish_or_die(folder, *_):
    """Stands for one training run; the worker of `b` is killed, as by the kernel for want of memory."""
    if folder.name == "b" and not (folder.parent / "enough memory").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    write_json(folder / "final.json", {"by": folder.name})


def test_a_worker_that_dies_is_an_error_in_one_line_and_finished_runs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "one_run", finish_or_die)
    configs = {tmp_path / name: CONFIG for name in "abc"}
    with pytest.raises(ReproError, match=r"a worker process died.*1 of 3 runs are finished and kept") as caught:
        runs.run_all("policy", configs, 1, 1, 1)
    assert "\n" not in str(caught.value)
    assert [path.parent.name for path in tmp_path.glob("*/final.json")] == ["a"]
    before = (tmp_path / "a" / "final.json").stat().st_mtime_ns
    (tmp_path / "enough memory").touch()
    runs.run_all("policy", configs, 1, 1, 1)
    assert sorted(path.parent.name for path in tmp_path.glob("*/final.json")) == ["a", "b", "c"]
    assert (tmp_path / "a" / "final.json").stat().st_mtime_ns == before


def interrupt_and_go_on(folder, *_):
    """Stands for a long training run, whose terminal sends Ctrl-C to its worker and to the parent."""
    (folder.parent / f"{folder.name} began").touch()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def test_ctrl_c_ends_the_runs_under_way_and_begins_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "one_run", interrupt_and_go_on)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    try:
        with pytest.raises(KeyboardInterrupt):
            runs.run_all("policy", {tmp_path / name: CONFIG for name in "abc"}, 1, 1, 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in tmp_path.glob("*began")] == ["a began"]
    assert not multiprocessing.active_children()


REQUESTS = [Request(str(number), [number + 1]) for number in range(6)]
SAMPLING = SamplingConfig(max_new_tokens=2)


class FakeEngine:
    """Stands for vllm.LLM: echoes prompts; dies in the call of that number."""

    def __init__(self, dies_in: int = 0):
        self.calls, self.dies_in = 0, dies_in

    def generate(self, prompts, parameters, use_tqdm):
        self.calls += 1
        if self.calls == self.dies_in:
            raise sys.modules["vllm.v1.engine.exceptions"].EngineDeadError("the core is gone\nand a long story")
        outputs = [SimpleNamespace(token_ids=p["prompt_token_ids"], finish_reason="length",
                                   logprobs=[{t: SimpleNamespace(logprob=-1.0)} for t in p["prompt_token_ids"]])
                   for p in prompts]  # fmt: skip
        return [SimpleNamespace(outputs=[output]) for output in outputs]


def vllm_generator(engine, monkeypatch):
    """A VLLMGenerator of that engine, whether or not vLLM is installed."""
    exceptions = ModuleType("vllm.v1.engine.exceptions")
    exceptions.EngineDeadError = type("EngineDeadError", (Exception,), {})
    vllm = ModuleType("vllm")
    vllm.SamplingParams = lambda **options: options
    for name, module in {"vllm": vllm, "vllm.v1": ModuleType("vllm.v1"), "vllm.v1.engine": ModuleType("vllm.v1.engine"),
                         "vllm.v1.engine.exceptions": exceptions}.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    generator = VLLMGenerator.__new__(VLLMGenerator)
    generator.sleeps, generator.penalty = False, 1.0
    generator.llm, generator.context, generator.stops, generator.tokenizer = engine, 256, set(), Letters()
    generator.text = ResponseText(generator.tokenizer, generator.stops)
    return generator


def test_an_engine_that_dies_in_the_middle_loses_its_batch_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "partial"
    generator = vllm_generator(FakeEngine(dies_in=3), monkeypatch)
    with pytest.raises(GenerationError, match=r"EngineDeadError: the core is gone\); finished batches are kept"):
        complete(generator, REQUESTS, SAMPLING, path, 1, "t")
    assert [record["id"] for record in resume_jsonl(path)] == ["0", "1"]
    with pytest.raises(GenerationError, match="failed before: make a new generator"):
        complete(generator, REQUESTS, SAMPLING, path, 1, "t")
    again = FakeEngine()
    records = complete(vllm_generator(again, monkeypatch), REQUESTS, SAMPLING, path, 1, "t")
    assert again.calls == 4
    assert records == complete(
        vllm_generator(FakeEngine(), monkeypatch), REQUESTS, SAMPLING, tmp_path / "whole", 6, "t"
    )


# --- files that are cut or have changed -----------------------------------------------------------------------------

ROWS = 8


def test_a_data_file_cut_anywhere_is_refused_or_has_whole_problems_only(tmp_path):
    path = tmp_path / "gsm8k_test.jsonl"
    files.write_jsonl(path, [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(ROWS)])
    whole, problems = path.read_bytes(), load_problems("gsm8k", data_dir=tmp_path)
    assert len(problems) == ROWS
    refused = 0
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            assert load_problems("gsm8k", data_dir=tmp_path) == problems[: whole[: size + 1].count(b"\n")]
        except DataError as error:
            refused += 1
            assert path.name in str(error)
    assert refused >= len(whole) - 2 * ROWS  # only where it is cut between two lines is nothing amiss


def test_a_hub_file_cut_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "train.parquet"
    pd.DataFrame({"nums": [[1, 2, 3, 4]] * 50, "target": range(50)}).to_parquet(path)
    whole = path.read_bytes()
    assert len(list(_hub_rows(TASKS["countdown"], "test", path))) == 50
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"train\.parquet: damaged, or not all of it is here"):
            _hub_rows(TASKS["countdown"], "test", path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_model_that_is_not_all_there_is_refused_by_the_name_of_the_file(tiny_model_folder, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    whole = (folder / name).read_bytes()
    for share in (0.001, 0.1, 0.5, 0.99):
        (folder / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ReproError, match=name):
            load_model(str(folder))
    (folder / name).write_bytes(whole)
    load_model(str(folder))


def test_any_flipped_bit_of_a_checkpoint_is_noticed_and_the_one_before_it_is_used(tmp_path):
    model = build()
    for step in (1, 2):
        checkpoint.save(tmp_path, step, model, {"step": step, "x": torch.rand(50)}, keep=2)
    path, bits = tmp_path / "step-000002", random.Random(0)
    for name in (checkpoint.WEIGHTS, checkpoint.STATE):
        whole = (path / name).read_bytes()
        for _ in range(40):
            flipped = bytearray(whole)
            flipped[bits.randrange(len(whole))] ^= 1 << bits.randrange(8)
            (path / name).write_bytes(flipped)
            assert checkpoint.load_latest(tmp_path, build(seed=1))["step"] == 1
        (path / name).write_bytes(whole)
    assert checkpoint.load_latest(tmp_path, model)["step"] == 2
