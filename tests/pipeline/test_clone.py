"""A clone keeps its word: what is committed is what the code at hand would make, and says so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.manifest import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """What git holds, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a clone")
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True)
    return folder


def dry_run(clone: Path, *arguments: str, **environment: str) -> str:
    """What `./reproduce.sh --dry-run` prints there, with nothing but the standard library."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DATA_DIR", "MODEL_DIR")}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipeline", *arguments, "--dry-run"],
        cwd=clone, env=kept | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("arguments", [(), ("--stage", "training", "--extended"), ("--stage", "ablations")])
def test_every_stage_of_the_default_profile_is_up_to_date(clone, arguments):
    printed = dry_run(clone, *arguments)
    assert not re.findall(r"would run: .*", printed), "make it anew (CONTRIBUTING.md) and commit results/"
    assert re.search(r"^0 of \d+ stages would run$", printed, re.MULTILINE)


def test_data_that_the_default_profile_does_not_read_changes_nothing(clone, tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text("{}\n")
    assert "\n0 of " in dry_run(clone, DATA_DIR=str(tmp_path))


def test_another_model_writes_elsewhere(clone, tiny_model_folder):
    printed = dry_run(clone, "--model", tiny_model_folder)
    assert f"results in results/cpu-{Path(tiny_model_folder).name}/" in printed
    assert printed.count("would run: never ran") > 5


def test_a_setting_and_a_file_that_changed_are_named(clone):
    profile, code = clone / "profiles" / "cpu.toml", clone / "analysis" / "couplings.py"
    before = profile.read_text(), code.read_text()
    try:
        profile.write_text(before[0] + "\n[couplings]\nbootstrap = 7\n")
        assert "setting [couplings] bootstrap: 2000 when it was made, now 7" in dry_run(clone)
        profile.write_text(before[0])
        code.write_text(before[1] + "\n# a comment changes nothing\n")
        assert "\n0 of " in dry_run(clone)
        code.write_text(before[1] + "\nEXTRA = 1\n")
        assert "code analysis/couplings.py changed" in dry_run(clone)
    finally:
        profile.write_text(before[0])
        code.write_text(before[1])


@pytest.mark.parametrize("manifest", sorted(ROOT.glob("results/*/manifest.json")), ids=lambda path: path.parent.name)
def test_every_committed_stage_says_how_it_was_made(manifest):
    for stage, entry in json.loads(manifest.read_text()).items():
        assert {"started", "git", "packages", "python", "hardware"} <= entry.keys(), stage
        assert {"settings", "config"} & entry.keys(), stage  # `config` in what 0.1.0 recorded
        assert re.fullmatch(r"[0-9a-f]{40}", entry["git"]["commit"]), stage
