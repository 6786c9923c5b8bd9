"""Stage `cluster`: GRPO with each credit strategy at the paper's scale, by verl (docs/cluster.md)."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json, write_json
from evaluation.settings import Run
from training.settings import ClusterSettings

ROOT = Path(__file__).resolve().parent.parent


def stage(run: Run, settings: ClusterSettings) -> None:
    """The runs of table [cluster], one after another: cluster.json, the last validation of each.

    A run that is finished is not done again; one that was killed goes on from verl's last checkpoint. verl meets the
    cluster at RAY_ADDRESS, or starts on the GPUs of this machine.
    """
    results = []
    for chosen, strategy in itertools.product(settings.runs, settings.strategies):
        overrides = [*chosen.split(), f"algorithm.rhythm.strategy={strategy}"]
        folder = run.path("cluster") / "-".join(override.rpartition("=")[2] for override in overrides)
        done = folder / "final.json"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(done, train(folder, overrides))
        results.append({"overrides": overrides, **read_json(done)})
    write_json(run.path("cluster.json"), {"settings": asdict(settings), "results": results})


def train(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """One run, as a process of its own; what its last validation measured. ReproError if it failed."""
    options = [f"trainer.default_local_dir={folder}", "trainer.logger=[console,file]", "trainer.resume_mode=auto"]
    log = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "attention_rhythm.integrations.verl.launch", "--make-data", *overrides, *options]
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, "VERL_FILE_LOGGER_PATH": str(log)}).returncode
    if status:
        raise ReproError(f"{folder.name}: verl ended with status {status}; what it said is above")
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    validations = [
        {"step": r["step"], **{k: v for k, v in r["data"].items() if k.startswith("val-core/")}} for r in records
    ]
    return [v for v in validations if len(v) > 1][-1]
