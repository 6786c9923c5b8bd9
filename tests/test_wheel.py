"""The wheel holds the library and nothing else, and works where the clone is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.manifest import ROOT

LIBRARY = ROOT / "attention_rhythm"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a loop has; README's lines use it.
LOOP = """
import torch
from types import SimpleNamespace
waad, fai = torch.rand(2, 2, 40).unbind()
signals = SimpleNamespace(waad=waad, fai=fai)
response_mask = torch.arange(40).expand(2, 40) >= 10
rewards, group_ids = torch.tensor([1.0, 0.0]), torch.tensor([0, 0])
logp = torch.zeros(2, 40, requires_grad=True)
old_logp = torch.zeros(2, 40)
"""
CHECK = """
assert advantages.shape == (2, 40) and (gamma[:, :10] == 1).all() and (gamma != 1).any()
assert metrics and loss.isfinite()
import sys, attention_rhythm
extras = {"pandas", "reasoning_gym", "math_verify", "matplotlib", "tyro", "vllm", "pyarrow"} & set(sys.modules)
assert not extras, extras
from attention_rhythm.tasks import Problem, load_problems, grade
from attention_rhythm.generation import SamplingConfig, HFGenerator, VLLMGenerator
print("at", attention_rhythm.__file__)
"""
# Which extras the import alone brings; transformers, which a model needs, brings SciPy where there is one.
LIGHT = """
import sys, attention_rhythm, attention_rhythm.credit, attention_rhythm.grpo, attention_rhythm.signals
print(sorted({"pandas", "scipy", "reasoning_gym", "math_verify", "matplotlib", "tyro"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(LIBRARY, folder / "attention_rhythm", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ("analysis", "training", "evaluation", "figures", "pipeline", "tests"):
        (folder / room).mkdir()
        (folder / room / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_the_library_with_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    files = {path.relative_to(ROOT).as_posix() for path in LIBRARY.rglob("*") if path.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert any(name.endswith(".yaml") for name in names) and any(name.endswith(".sh") for name in names)
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(needed) == ["jaxtyping", "numpy", "torch", "transformers"]
    assert set(re.findall(r"^Provides-Extra: (\w+)", metadata, re.MULTILINE)) >= {
        "tasks",
        "generation",
        "verl",
        "figures",
    }


@pytest.mark.slow
def test_readmes_lines_run_without_the_clone(wheel, tmp_path, tiny_model_folder):
    """From a folder that has packages of the rooms' names; and nothing is written beside the installed code."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # the big libraries are those of the environment that runs the tests
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "theirs.pth").write_text("\n".join(theirs))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", packages, wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    installed = {path: path.stat().st_mtime_ns for path in (packages / "attention_rhythm").rglob("*")}

    home = tmp_path / "a project of mine"
    for room in ("analysis", "training", "evaluation", "figures"):
        (home / room).mkdir(parents=True)
        (home / room / "__init__.py").write_text("raise AssertionError('the user's own package')\n")
    (signals,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (credit,) = re.findall(r"```python no-run\n(.*?)```", README, re.DOTALL)
    script = signals.replace("Qwen/Qwen3-0.6B", tiny_model_folder) + LOOP + credit + CHECK
    (home / "lines.py").write_text(script)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [environment / "bin" / "python", "lines.py"], cwd=home, capture_output=True, text=True, check=False,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    light = subprocess.run(
        [environment / "bin" / "python", "-c", LIGHT], cwd=home, capture_output=True, text=True, check=False, env=kept
        | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert (light.returncode, light.stdout) == (0, "[]\n"), light.stderr
    assert "nan" in done.stdout and f"at {packages}" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in (packages / "attention_rhythm").rglob("*")}
    assert after == installed
