"""docs/extending.md: every diff on it applies, and the lines below it run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")[2:]}  # less "What holds everywhere"


def block(title: str, language: str) -> str:
    """The one code block of that language in a section."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[title], re.DOTALL)
    return code


def test_what_people_want_most_is_shown_and_short():
    assert list(SECTIONS) == [
        "A new credit strategy",
        "A new task",
        "A new generation engine",
        "A new signal, held against token values",
    ]
    for title in SECTIONS:
        assert len(re.findall(r"^\+(?!\+\+)", block(title, "diff"), re.MULTILINE)) <= 30, f"{title}: about twenty lines"


@pytest.fixture
def copy(tmp_path):
    """The code of the repository, to change."""
    for room in ("attention_rhythm", "evaluation", "analysis", "training", "figures", "pipeline"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("title", SECTIONS)
def test_the_diff_applies_and_works(copy, title, tiny_model_folder):
    diff, check = block(title, "diff"), block(title, "python").replace("FOLDER", tiny_model_folder)
    run = {"cwd": copy, "capture_output": True, "text": True, "check": False}
    # a folder below the repository would make git look for the paths there
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent), "DATA_DIR": ""}
    applied = subprocess.run(["git", "apply", "-"], input=diff, env=alone, **run)
    assert applied.returncode == 0, f"docs/extending.md has fallen behind the code: {applied.stderr}"
    # the grader starts a process of its own, which imports the script again
    lines = textwrap.indent(check, "    ")
    (copy / "check.py").write_text(f"def main():\n{lines}\n\nif __name__ == '__main__':\n    main()\n")
    done = subprocess.run([sys.executable, "check.py"], env=alone, **run)
    assert done.returncode == 0, done.stderr
    changed = re.findall(r"^\+\+\+ b/(\S+\.py)$", diff, re.MULTILINE)
    for command in ("check", "format"):
        linted = subprocess.run([sys.executable, "-m", "ruff", command, "--diff", *changed], **run)
        assert linted.returncode == 0, linted.stdout
