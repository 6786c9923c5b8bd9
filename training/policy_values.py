"""Stage `policy_values`: token values of the embedded policy, at its warm start and after GRPO.

The method is that of analysis/token_value.py.

The trained policy is made here, by the recipe of the embedded experiment with plain GRPO and seed 0; it is that
experiment's own run (training/runs.py) with one difference: its weights are kept, under runs/.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from analysis.token_value import Subject, study
from attention_rhythm.files import atomic_folder, sha256_of
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model, model_sha256
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles
from evaluation.settings import Run
from training.experiment import ROOT
from training.loop import train
from training.measuring import correct
from training.recipes import load_toml, make_config
from training.settings import PolicyValuesSettings


def stage(run: Run, settings: PolicyValuesSettings) -> None:
    """What analysis/token_value.py writes, NAME = policy_values; its subjects are `warm` and `grpo-STEPS`."""
    study(run, "policy_values", subjects(run, settings), settings)


def subjects(run: Run, settings: PolicyValuesSettings) -> Iterator[Subject]:
    """The policy after each number of steps, made as it is asked for."""
    puzzles = load_puzzles("test", settings.problems)
    for steps in settings.steps:
        folder = trained_policy(run, settings, steps)
        model, tokenizer = load_model(str(folder))
        name = f"grpo-{steps}" if steps else "warm"
        generator = HFGenerator(model, tokenizer)  # of 1.2 million parameters: faster than vLLM
        yield Subject(name, model, tokenizer, generator, model_sha256(str(folder)), puzzles, with_texts=True)


def trained_policy(run: Run, settings: PolicyValuesSettings, steps: int) -> Path:
    """The folder of the policy after so many steps of GRPO; trained where it is not there yet."""
    recipe = load_toml(settings.recipe)
    policy = ROOT / recipe["policy"]
    if not steps:
        return policy
    config = make_config(recipe, {"credit": {"strategy": "uniform"}}, steps=steps, seed=settings.seed_of_training)
    key = sha256_of([model_sha256(str(policy)), recipe, steps, settings.seed_of_training])[:8]
    folder = run.path("runs", "policy_values", f"grpo-{steps}-{key}")
    if (folder / "model").exists():
        return folder / "model"
    model, tokenizer = load_model(str(policy))
    train(
        model,
        tokenizer,
        load_puzzles("train"),
        folder=folder,
        prompt=lambda problem: build_prompt_ids(problem, tokenizer),
        reward=correct,
        config=config,
        resume=True,
    )
    with atomic_folder(folder / "model") as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder / "checkpoints")
    return folder / "model"
