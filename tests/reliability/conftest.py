"""A copy of the repository with a smaller smoke profile, to be killed, starved and filled."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.manifest import ROOT
from pipeline.profiles import settings_classes
from training.loop import TrainConfig

# What makes the smoke profile and the training recipe small: every stage still has several batches to be killed in.
PROFILE = {
    "responses": {"task": "countdown", "problems": 4, "max_new_tokens": 48, "batch_size": 1},
    "perturbation": {"batch_size": 1},
    "evaluation": {"max_new_tokens": 32, "batch_size": 1},
    "training": {"held_out": 8},
}
RECIPE = {"loop": {"prompts_per_step": 4, "samples_per_prompt": 4, "max_new_tokens": 48, "checkpoint_every": 1}}


def change(path: Path, changes: dict[str, dict], known: Callable[[str], set[str]]) -> None:
    """Change keys of a TOML file of plain tables; every key must be `known` in its table."""
    config = tomllib.loads(path.read_text())
    for table, items in changes.items():
        assert items.keys() <= known(table), (path.name, table)
        config[table] = config.get(table, {}) | items
    plain = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for table, items in config.items():
        if isinstance(items, dict):
            plain += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in items.items())]
    path.write_text("\n".join(plain) + "\n")


class Copy:
    """A copy of what git holds or would take, without results, where `reproduce.sh smoke` takes less than a minute."""

    def __init__(self, folder: Path, model: str):
        self.root, self.model = folder, model
        self.started: list[subprocess.Popen] = []
        self.results = folder / "results" / f"smoke-{Path(model).name}"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ":!results"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():  # not one that was deleted and not yet committed
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        settings = settings_classes()
        change(folder / "profiles" / "smoke.toml", PROFILE, lambda table: {f.name for f in fields(settings[table])})
        loop = {f.name for f in fields(TrainConfig)}
        change(folder / "training" / "configs" / "countdown.toml", RECIPE, lambda table: loop)

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """`reproduce.sh smoke` as the leader of a process group of its own."""
        environment = {name: value for name, value in os.environ.items() if name not in ("DATA_DIR", "REPRO_DEBUG")}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment["HF_HUB_OFFLINE"] = "1"
        process = subprocess.Popen(
            ["bash", "reproduce.sh", "smoke", "--no-venv", "--model", self.model, *arguments],
            cwd=self.root, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options},
        )  # fmt: skip
        self.started.append(process)
        return process

    def stop(self) -> None:
        """Kill what a test that failed has left running."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit status and everything that was printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=1200)
        return process.returncode, output

    def processes(self) -> list[str]:
        """The command lines of the processes that work in this copy."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(self.root):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:  # gone in the meantime, or somebody else's
                continue
        return found


@pytest.fixture
def new_copy(tmp_path, tiny_model_folder):
    """`new_copy("name")`: a fresh copy below the test's own folder."""
    copies = []

    def make(name: str) -> Copy:
        folder = tmp_path / name
        folder.mkdir()
        copies.append(Copy(folder, tiny_model_folder))
        return copies[-1]

    yield make
    for copy in copies:
        copy.stop()
