"""verl on a CPU, with the plugin loaded as verl itself loads it."""

import os

os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault(
    "VERL_USE_EXTERNAL_MODULES", "attention_rhythm.integrations.verl.cpu,attention_rhythm.integrations.verl.plugin"
)

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def policy_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(__file__).parents[2] / "training/checkpoints/countdown-policy")


@pytest.fixture(scope="session")
def policy():
    from attention_rhythm.models import load_model

    return load_model(str(Path(__file__).parents[2] / "training/checkpoints/countdown-policy"))[0]
