"""Checkpoints that are whole or absent, and refused if a bit of them has changed.

    FOLDER/step-000012/model.safetensors   weights
                       state.pt            optimizer, random states, what else the loop keeps: tensors, plain values
                       manifest.json       step, and the SHA-256 of the other two

A checkpoint is written beside its final name, synced and renamed, so a kill at any moment leaves the ones before it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel

from attention_rhythm.errors import ReproError
from attention_rhythm.files import atomic_folder, read_json, sha256_file, write_json

logger = logging.getLogger(__name__)

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"


class CheckpointError(ReproError):
    """A checkpoint that is not what was written."""


def save(folder: Path, step: int, model: PreTrainedModel, state: dict[str, Any], *, keep: int) -> Path:
    """Write the checkpoint of `step` and drop all but the last `keep`. `state`: tensors and plain values only."""
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*-step-*"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover)
    path = folder / f"step-{step:06d}"
    with atomic_folder(path) as temporary:
        save_model(model, str(temporary / WEIGHTS))
        torch.save(state, temporary / STATE)
        hashes = {name: sha256_file(temporary / name) for name in (WEIGHTS, STATE)}
        write_json(temporary / MANIFEST, {"step": step, "sha256": hashes})
    for old in steps(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def steps(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*"))


def latest_step(folder: Path) -> int:
    """The step of the newest checkpoint in `folder`, 0 if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in steps(folder)), default=0)


def load(path: Path, model: PreTrainedModel) -> dict[str, Any]:
    """Put the weights of one checkpoint into `model` and return its state (on the CPU).

    Raises:
        CheckpointError: a file is missing or is not the one that was written. The model is then as it was.
    """
    manifest = read_json(path / MANIFEST) if (path / MANIFEST).is_file() else {}
    hashes = manifest.get("sha256", {})
    for name in (WEIGHTS, STATE):
        if not (path / name).is_file() or sha256_file(path / name) != hashes.get(name):
            raise CheckpointError(f"{path.name}: {name} is missing or damaged")
    load_model(model, str(path / WEIGHTS), device=str(model.device))
    return torch.load(path / STATE, map_location="cpu", weights_only=True)


def load_latest(folder: Path, model: PreTrainedModel) -> dict[str, Any] | None:
    """The state of the newest checkpoint that is whole, its weights put into `model`; None if there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    paths = steps(folder)
    for path in reversed(paths):
        try:
            return load(path, model)
        except ReproError as error:  # damaged, or a manifest that is no JSON
            logger.warning("%s; going back to the checkpoint before it", error)
    if paths:
        raise CheckpointError(f"{folder}: no checkpoint is whole")
    return None


def weights_sha256(model: PreTrainedModel) -> str:
    """Of a model's parameters and buffers: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def random_states(generators: dict[str, torch.Generator]) -> dict[str, Any]:
    """The states of Python's, numpy's and PyTorch's global generators, and of the given ones."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generators": {name: generator.get_state() for name, generator in generators.items()},
    }


def restore_random_states(states: dict[str, Any], generators: dict[str, torch.Generator]) -> None:
    """Put all of them back."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    for name, generator in generators.items():
        generator.set_state(states["generators"][name])
