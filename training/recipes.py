"""Recipes of training/configs/: from a file, with a variant's changes, to the settings of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_rhythm.credit import CreditConfig
from attention_rhythm.signals.reading import SignalConfig
from training.actors.train import OptimConfig
from training.loop import TrainConfig

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class PuzzleConfig(TrainConfig):
    """A run of the embedded experiment."""

    control: str = ""  # training/countdown/arms.py: what weighs the tokens in the place of `credit`


def load_toml(name: str) -> dict[str, Any]:
    """training/configs/NAME.toml."""
    return tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))


def make_config(recipe: Mapping[str, Any], variant: Mapping[str, Any], *, steps: int, seed: int) -> PuzzleConfig:
    """The recipe with a variant's changes: tables [credit], [signals], [optim]; the rest is `[loop]`; its control."""
    tables = {
        name: {**recipe.get(name, {}), **variant.get(name, {})} for name in ("credit", "signals", "optim", "loop")
    }
    horizon = tables["signals"].get("horizon")
    if horizon is not None:  # TOML has no null: "end" is an open horizon
        tables["signals"]["horizon"] = (horizon[0], None if horizon[1] == "end" else horizon[1])
    if tables["signals"].get("head_fraction") == "all":
        tables["signals"]["head_fraction"] = None
    return PuzzleConfig(
        credit=CreditConfig(**tables["credit"]),
        signals=SignalConfig(**tables["signals"]),
        optim=OptimConfig(**{k: tuple(v) if k == "betas" else v for k, v in tables["optim"].items()}),
        **tables["loop"],
        steps=steps,
        seed=seed,
        control=variant.get("control", ""),
    )
