"""kill -9, at any moment and as often as one likes, costs time and nothing else."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open

from attention_rhythm import files
from attention_rhythm.files import sha256_file
from pipeline.manifest import ROOT

KILLS = 20
SEED = 8


# --- one file -------------------------------------------------------------------------------------------------------

OLD, NEW = {"state": "old"}, {"state": "new"}


def replace_file(path):
    files.write_json(path, NEW)


def replace_folder(path):
    with files.atomic_folder(path) as folder:
        files.write_json(folder / "a.json", NEW)
        files.write_json(folder / "b.json", NEW)


def killed_before_call(number: int, work, path) -> bool:
    """Whether a forked child died, as by kill -9, just before its call of that number into the file system."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(function):
            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        for name in ("open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work(path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_file_is_the_old_or_the_new_one_whenever_its_writer_dies(tmp_path):
    path, states = tmp_path / "a.json", []
    number = 0
    while not states or states[-1] != "survived":
        number += 1
        files.write_json(path, OLD)
        died = killed_before_call(number, replace_file, path)
        states.append(files.read_json(path)["state"] if died else "survived")
        files.clear_leftovers(tmp_path)
        assert os.listdir(tmp_path) == ["a.json"]
    assert {"old", "new"} < set(states)


def test_a_folder_is_the_old_or_the_new_one_or_gone_but_never_a_mixture(tmp_path):
    path, states = tmp_path / "signals", []
    number = 0
    while not states or states[-1] != "survived":
        number += 1
        with files.atomic_folder(path) as folder:
            for name in ("a.json", "b.json"):
                files.write_json(folder / name, OLD)
        died = killed_before_call(number, replace_folder, path)
        found = {files.read_json(file)["state"] for file in path.iterdir()} if path.exists() else {"gone"}
        assert len(found) == 1
        states.append(found.pop() if died else "survived")
        files.clear_leftovers(tmp_path)
        assert set(os.listdir(tmp_path)) <= {"signals"}
    assert set(states) == {"old", "gone", "new", "survived"}
    assert states.count("gone") == 1  # between two renames, and then the stage runs again


# --- the whole pipeline ---------------------------------------------------------------------------------------------


STAGE = re.compile(r"\[\d+/\d+\] (\w+):")


@pytest.mark.long
def test_smoke_killed_twenty_times_ends_with_the_results_of_an_undisturbed_run(new_copy):
    """Each life ends within a stage: the first that it begins, or the second, so that half of them go forward."""
    undisturbed, killed = new_copy("undisturbed"), new_copy("killed")
    process, output, begun = undisturbed.start(), [], {}
    for line in process.stdout:
        output.append(line)
        if match := STAGE.match(line):
            begun[match.group(1)] = time.monotonic()
    assert process.wait() == 0, "".join(output)
    ends = [*list(begun.values())[1:], time.monotonic()]
    lasts = {stage: end - start for (stage, start), end in zip(begun.items(), ends, strict=True)}

    moments = random.Random(SEED)
    reached = []
    while len(reached) < KILLS:
        before = len(finished(killed.results))
        lines = 1 + len(reached) % 2
        process, stages = killed.start(), []
        for line in process.stdout:
            if match := STAGE.match(line):
                stages.append(match.group(1))
                if len(stages) == lines:
                    time.sleep(moments.uniform(0, 0.8) * lasts[stages[-1]])
                    break
        if process.poll() is not None or len(stages) < lines:  # it has ended first: some of it is made again
            assert process.wait() == 0
            shutil.rmtree(killed.results / "figures")
            reached += [] if len(stages) == lines else [before]
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert_whole(killed.results)
        reached.append(len(finished(killed.results)))
        assert reached[-1] >= before + (lines - 1 if before < len(lasts) - 1 else 0), "a finished stage was lost"
    print(f"stages finished at the kills: {reached}")

    status, output = killed.run()
    assert status == 0, output
    assert_whole(killed.results)
    assert not [path for path in killed.results.rglob(".*") if path.name.startswith((".tmp-", ".old-"))]
    ours, theirs = contents(killed.results), contents(undisturbed.results)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []

    deadline = time.monotonic() + 30
    while left := killed.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def finished(results: Path) -> dict:
    path = results / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def files_of(folder: Path) -> list[Path]:
    """At their final names: neither hidden nor in a hidden folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def assert_whole(folder: Path) -> None:
    for path in files_of(folder):
        try:
            read(path)
        except Exception as error:
            pytest.fail(f"{path.relative_to(folder)} is not whole: {error!r}")


def read(path: Path):
    """The content of a result file, by its suffix; raises if there is but a part of it."""
    match path.suffix:
        case ".json" | ".ipynb":
            return json.loads(path.read_text())
        case ".jsonl":  # of those that grow line by line, the last line may be half: who goes on cuts it off
            lines = path.read_bytes().split(b"\n")
            assert path.name == "metrics.jsonl" or lines[-1] == b""
            return [json.loads(line) for line in lines[:-1]]
        case ".csv":
            return pd.read_csv(path)
        case ".parquet":
            return pd.read_parquet(path)
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name].tobytes() for name in arrays.files}
        case ".png":
            with Image.open(path) as image:
                image.load()
        case ".pdf":
            assert path.read_bytes().rstrip().endswith(b"%%EOF")
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")
        case ".safetensors":
            with safe_open(path, framework="numpy"):
                pass
        case ".pt":
            assert json.loads((path.parent / "manifest.json").read_text())["sha256"][path.name] == sha256_file(path)
        case _:
            assert path.stat().st_size > 0
    return path.read_bytes()


def contents(results: Path) -> dict[str, object]:
    """What every result file says, timings aside."""
    return {str(path.relative_to(results)): without_timings(path.name, read(path)) for path in files_of(results)}


def without_timings(name: str, content):
    if name == "manifest.json":  # and without the hashes of files that hold timings; the files are compared themselves
        kept = ("settings", "model", "packages", "python")
        made_of = ("settings", "model", "data", "code")
        return {
            stage: {key: entry[key] for key in kept} | {key: entry["made_of"][key] for key in made_of}
            for stage, entry in content.items()
        }
    if name == "metrics.jsonl":
        return [without(record, "seconds") for record in content]
    if name == "training_curves.parquet":
        return content[[column for column in content if not column.startswith("seconds")]].to_csv()
    if name == "training_runs.json":
        return [without(without(row, "seconds"), "started") for row in content]
    if name == "training.json":
        return {**content, "results": [without(result, "seconds") for result in content["results"]]}
    if name.endswith(".ipynb"):  # papermill gives the cell with the parameters a new id each time
        cells = [without(cell, "id") for cell in content["cells"]]
        return [without(cell, "outputs") if "seconds" in "".join(cell["source"]) else cell for cell in cells]
    return content.to_csv() if isinstance(content, pd.DataFrame) else content


def without(record: dict, prefix: str) -> dict:
    return {key: value for key, value in record.items() if not key.startswith(prefix)}


# --- training -------------------------------------------------------------------------------------------------------

# One process imports everything and forks the runs, so that twenty of them cost seconds. A run is killed when its
# metrics have come to a step of its own, so that the kills are spread over the run on a slow machine as on a fast one;
# up to a step later, so that they come in every part of a step. The last one leaves some eight steps to do.
TRAINING = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from tests.support.models import Letters
from tests.support.models import build_trained as build
from tests.support.training import CONFIG, run

torch.set_num_threads(1)
config = replace(CONFIG, steps=30, checkpoint_every=4)
LAST = 20

def start(folder):
    child = os.fork()
    if child == 0:
        try:
            model = build()
            run(model, Letters(), Path(folder), config, resume=True)
            torch.save(model.state_dict(), f"{folder}/weights.pt")
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

def recorded(folder):
    path = Path(folder, "metrics.jsonl")
    return path.read_bytes().count(b"\\n") if path.exists() else 0

undisturbed, killed, kills, seed = sys.argv[1:]
kills = int(kills)
started = time.monotonic()
assert os.waitpid(start(undisturbed), 0)[1] == 0
step = (time.monotonic() - started) / config.steps
moments = random.Random(int(seed))
for kill in range(kills):
    aim = LAST * kill // (kills - 1)
    child = start(killed)
    while recorded(killed) < aim:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended unasked"
        time.sleep(step / 20)
    late = time.monotonic() + moments.uniform(0, step)
    while time.monotonic() < late and recorded(killed) < aim + 2:
        time.sleep(step / 20)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it ended before it was killed"
    print(recorded(killed), end=" ")
print()
assert os.waitpid(start(killed), 0)[1] == 0
"""


@pytest.mark.long
def test_training_killed_twenty_times_has_the_same_metrics_and_weights_to_the_last_bit(tmp_path):
    import torch

    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, *map(str, folders), str(KILLS), str(SEED)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(f"steps recorded at the kills: {done.stdout}")
    assert len(done.stdout.split()) == KILLS
    metrics, weights = zip(
        *(([without(r, "seconds") for r in read(f / "metrics.jsonl")], torch.load(f / "weights.pt")) for f in folders),
        strict=True,
    )
    assert len(metrics[0]) == 30 and metrics[0] == metrics[1]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
