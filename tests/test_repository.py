"""What README and the repository promise about themselves."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.grpo import group_advantages
from pipeline import pages

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["check", "."], ["format", "--check", "."]], ids=" ".join)
def test_ruff_is_content(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """What git holds, in a folder: a run on another machine may have changed results/ since, or deleted them."""
    folder = tmp_path_factory.mktemp("held")
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("page", pages.PAGES)
def test_the_tables_in_a_page_are_the_committed_ones(held, page):
    text = (held / page).read_text(encoding="utf-8")
    assert pages.filled(text, held) == text, "run: python -m pipeline.pages"


def test_every_function_test_and_file_that_the_readme_names_is_there(held):
    for name in re.findall(r"`((?:attention_rhythm|analysis|evaluation|training|figures|pipeline)\.[\w.]+)`", README):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    for path in re.findall(r"(?:`|\]\()((?:tests|docs|profiles|benchmarks|results/[a-z0-9])[\w./-]*\w)", README):
        assert (held / path).exists(), path


def test_every_equation_of_section_4_is_mapped():
    for number in (7, 8, 9, 10, 11):
        assert re.search(rf"^\| .*Eq\. {number}\b.*tests/(signals|analysis)/test_", README, re.MULTILINE), number


def test_no_arrow_goes_up():
    rooms = ("attention_rhythm", "evaluation", "analysis", "training", "figures", "pipeline")
    for height, room in enumerate(rooms):
        above = "|".join(rooms[height + 1 :])
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if above:
                assert not re.search(rf"^\s*(from|import) ({above})\b", text, re.MULTILINE), path
            if room == "figures":
                assert not re.search(r"^\s*(from|import) (torch|transformers|analysis|training)\b", text, re.MULTILINE)


def test_nothing_of_this_machine_is_in_the_repository(held):
    kinds = {".py", ".md", ".toml", ".sh", ".ipynb", ".yml", ".json", ".txt"}
    for path in (path for path in held.rglob("*") if path.suffix in kinds):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|work|Users)/\w", text), path


def test_notebooks_are_stripped(held):
    done = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", *map(str, held.glob("notebooks/*.ipynb"))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_shapes_are_checked_in_the_tests():
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TypeCheckError, match="entropy"):
        credit_weights(mask, CreditConfig("entropy"), entropy=torch.ones(2, 4))
    with pytest.raises(TypeCheckError, match="rewards"):
        group_advantages(torch.ones(2, 2), torch.zeros(2, dtype=torch.long))
