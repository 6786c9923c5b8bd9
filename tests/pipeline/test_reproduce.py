"""The command line: what runs, what is skipped, and what wrong input and killed runs leave behind."""

import errno
import os
import re
import shutil
import subprocess
import sys

import pytest

from attention_rhythm.files import read_json, write_text
from attention_rhythm.tasks.base import NoSource
from pipeline import profiles, running
from pipeline.cli import main
from pipeline.manifest import ROOT, code_of
from pipeline.stages import STAGES, Stage
from tests.support.toy import PROFILE, run, set_up


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return set_up(tmp_path, monkeypatch)


def change(toy, *pairs):
    """Other text in the profile."""
    text = PROFILE
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    write_text(toy.profile, text)


# ------------------------------------------------------------------------- what runs, what is skipped


def test_everything_runs_once(toy, capsys):
    assert run(toy) == (0, ["model", "one", "two", "three"])
    assert "tables/table.md" in capsys.readouterr().out
    assert run(toy) == (0, [])
    assert capsys.readouterr().out.count("up to date") == 4


def test_a_changed_setting_runs_what_depends_on_it(toy):
    run(toy)
    change(toy, ("[data]", "[two]\nx = 1\n[data]"))
    assert run(toy) == (0, ["two"])  # it writes the same as before, so the third is up to date after all
    change(toy, ("seed = 0", "seed = 1"))
    assert run(toy) == (0, ["model", "one", "two", "three"])


def test_a_setting_that_changes_no_number_changes_nothing(toy):
    run(toy)
    change(toy, ("n = 3", "n = 3\nworkers = 2"))
    assert run(toy) == (0, [])


def test_another_model_has_a_folder_of_its_own(toy, tmp_path):
    run(toy)
    before = {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()}
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "config.json").write_text("{}")
    assert run(toy, "--model", str(tmp_path / "my model")) == (0, ["model", "one", "two", "three"])
    assert (tmp_path / "results" / "toy-my-model" / "three.json").exists()
    assert {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()} == before
    assert run(toy) == (0, [])


def test_other_data_runs_what_reads_it(toy, tmp_path, monkeypatch):
    run(toy)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert run(toy) == (0, [])
    write_text(tmp_path / "data" / "gsm8k_test.jsonl", "{}")
    write_text(tmp_path / "data" / "other.jsonl", "{}")
    assert run(toy) == (0, ["one"])
    write_text(tmp_path / "data" / "gsm8k_test.jsonl", "{} ")
    assert run(toy) == (0, ["one"])
    monkeypatch.delenv("DATA_DIR")
    assert run(toy) == (0, [])  # what was recorded stands where the data are not


def test_a_damaged_or_deleted_file_is_made_again(toy):
    run(toy)
    write_text(toy.root / "three.json", "damaged")
    assert run(toy) == (0, ["three"])
    (toy.root / "two" / "a.json").unlink()
    (toy.root / "two").rmdir()
    assert run(toy) == (0, ["two"])


def test_a_stage_alone_runs_what_it_needs_and_no_more(toy, capsys):
    assert run(toy, "--stage", "two") == (0, ["model", "one", "two"])
    assert "two needs model, one first" in capsys.readouterr().out
    assert run(toy, "--stage", "two") == (0, [])
    assert run(toy, "--stage", "three") == (0, ["three"])


def test_an_intermediate_that_is_gone_is_not_missed_by_a_later_stage(toy):
    """As in a clean clone, where git keeps the results of the last stages only."""
    run(toy)
    (toy.root / "one.json").unlink()
    assert run(toy, "--stage", "three") == (0, [])
    (toy.root / "three.json").unlink()
    assert run(toy, "--stage", "three") == (0, ["three"])
    (toy.root / "two" / "a.json").unlink()
    assert run(toy, "--stage", "three") == (0, ["one", "two"])
    assert run(toy) == (0, [])


def test_what_git_does_not_keep_is_made_again_where_it_is_asked_for_or_read(toy):
    run(toy)
    (toy.root / "one.json").unlink()
    (toy.root / "page.html").unlink()
    assert run(toy) == (0, [])
    assert run(toy, "--stage", "three") == (0, ["three"])
    change(toy, ("[data]", "[two]\nx = 1\n[data]"))
    assert run(toy) == (0, ["one", "two"])


def test_a_dry_run_says_why_and_changes_nothing(toy, capsys):
    assert run(toy, "--dry-run") == (0, [])
    assert not toy.root.exists()
    out = capsys.readouterr().out
    assert out.count("would run: never ran") == 4
    assert "reads  one.json\n  writes two/" in out
    assert "about 0.2 min" in out
    run(toy)
    change(toy, ("[data]", "[two]\nx = 1\n[data]"))
    capsys.readouterr()
    run(toy, "--dry-run")
    out = capsys.readouterr().out
    assert out.count("would be skipped: up to date") == 2
    assert "would run: setting [two] x: 0 when it was made, now 1" in out
    assert "would run: reads what two makes anew" in out


def test_the_manifest_says_what_made_each_file(toy):
    run(toy)
    entry = read_json(toy.root / "manifest.json")["two"]
    assert entry["made_of"]["settings"] == {
        "seed": 0, "[model] dtype": "float32", "[model] device": "cpu", "[two] x": 0, "[two] shares": []
    }  # fmt: skip
    assert entry["model"] == {"id": "smollm2-135m-instruct", "sha256": "hash of smollm2-135m-instruct"}
    assert entry["made_of"]["inputs"].keys() == {"one.json"}
    assert entry["outputs"].keys() == {"two/"}
    assert entry["settings"] == {"two": {"x": 0, "shares": []}}
    assert entry["started"].endswith("+00:00")
    assert entry.keys() >= {"packages", "python", "git", "hardware", "wall_seconds"}


def test_what_changed_is_named(toy, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    write_text(tmp_path / "data" / "gsm8k_test.jsonl", "{}")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    run(toy)

    def reason():
        capsys.readouterr()
        run(toy, "--dry-run")
        return re.search("would run: (.*)", capsys.readouterr().out).group(1)

    write_text(tmp_path / "data" / "gsm8k_test.jsonl", "{} ")
    assert reason() == "data file gsm8k_test.jsonl changed"
    write_text(tmp_path / "data" / "gsm8k_test.jsonl", "{}")
    change(toy, ("seed = 0", "seed = 4"))
    assert reason() == "setting seed: 0 when it was made, now 4"
    write_text(toy.profile, PROFILE)
    write_text(toy.root / "two" / "a.json", "1")
    assert reason() == "two/ changed on disk"
    run(toy)
    monkeypatch.setattr(running, "code_of", lambda module: {"toy.py": "another"})
    assert reason() == "code toy.py new"


# ------------------------------------------------------------------------- failures


def test_a_killed_stage_goes_on_where_it_was(toy, capsys):
    toy.fail = KeyboardInterrupt()
    assert run(toy) == (130, ["model", "one"])
    assert "interrupted in stage one" in capsys.readouterr().err
    toy.fail = None
    assert run(toy) == (0, ["one", "two", "three"])
    assert toy.resumed == 2
    assert read_json(toy.root / "one.json") == [0, 1, 2]
    assert not list(toy.root.glob(".*.partial"))


def test_other_settings_do_not_pick_up_a_killed_stage(toy):
    toy.fail = KeyboardInterrupt()
    run(toy)
    toy.fail = None
    change(toy, ("n = 3", "n = 1"))
    assert run(toy)[0] == 0
    assert toy.resumed == 0
    assert not list(toy.root.glob(".*.partial"))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "error: stage three: the disk is full"),
        (ValueError("data.jsonl:3: no answer\nmore"), "error: stage three: ValueError: data.jsonl:3: no answer\n"),
        (RuntimeError("NaN in the logits"), "error: stage three: RuntimeError: NaN in the logits\n"),
    ],
)
def test_a_failure_is_one_line_and_leaves_earlier_results(toy, capsys, failure, message):
    run(toy)
    before = {path: path.read_bytes() for path in toy.root.rglob("*.json")}
    toy.fail = failure
    change(toy, ("[data]", "[three]\nx = 1\n[data]"))
    capsys.readouterr()
    assert run(toy) == (1, ["three"])
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in toy.root.rglob("*.json")} == before


def test_the_traceback_is_there_for_those_who_ask(toy, monkeypatch):
    toy.fail = ValueError("x")
    monkeypatch.setenv("REPRO_DEBUG", "1")
    with pytest.raises(running.StageFailure) as caught:
        run(toy)
    assert caught.value.__cause__ is toy.fail


def test_a_stage_that_forgets_a_file_fails(toy, capsys):
    toy.model = lambda run: None
    assert run(toy)[0] == 1
    assert "stage model: it ended without writing model.json" in capsys.readouterr().err


def test_a_module_that_is_missing_is_named(toy, monkeypatch, capsys):
    for module in (profiles, running):
        monkeypatch.setattr(module, "STAGES", (Stage("model", "", "evaluation.nothing:run", (), (), {}),))
    write_text(toy.profile, "seed = 0")
    assert run(toy)[0] == 1
    assert "No module named 'evaluation.nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "nothing"], "invalid choice: 'nothing'"),
        (["--model", "./nothing"], "neither smollm2"),
        (["--nothing"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_status_2_and_starts_nothing(toy, capsys, arguments, message):
    assert run(toy, *arguments) == (2, [])
    assert message in capsys.readouterr().err
    assert not toy.root.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "toy.toml: Invalid value"),
        (PROFILE.replace("seed = 0", 'seed = "0"'), "seed is a whole number, not '0'"),
        (PROFILE.replace("[one]", "[ones]"), "toy.toml: 'ones' is no table of settings; there are model, one, data"),
        (PROFILE.replace("n = 3", "m = 3"), "toy.toml: [one] has no setting 'm'; there are n, workers"),
        (PROFILE.replace("n = 3", 'n = "3"'), "[one] n is a whole number, not '3'"),
        (PROFILE.replace("n = 3", "n = true"), "[one] n is a whole number, not True"),
        (PROFILE + "[two]\nshares = 0.5", "[two] shares is a list, not 0.5"),
        (PROFILE + "[two]\nshares = [0.5, 'x']", "[two] shares is a number, not 'x'"),
        (PROFILE + "[extra]", "[extra] lacks n"),
        (PROFILE.replace('"benchmark"', '"hearsay"'), "[data] source must be generated or benchmark, not 'hearsay'"),
        ('extends = "nothing"', "unknown profile 'nothing'"),
        ('extends = "toy"', "extends itself: toy extends toy"),
        ('leaves_out = ["two"]', "leaves_out names 'two'; what can be left out: extra"),
    ],
)
def test_a_malformed_profile_is_status_2(toy, capsys, text, message):
    write_text(toy.profile, text)
    assert run(toy) == (2, [])
    assert message in capsys.readouterr().err


def test_a_profile_says_what_differs_from_the_one_it_extends(toy):
    write_text(toy.profile, PROFILE + "[extra]\nn = 1\n[two]\nx = 1\nshares = [1, 0.5]")
    write_text(toy.profile.with_name("more.toml"), 'extends = "toy"\nleaves_out = ["extra"]\nseed = 2\n[two]\nx = 2\n')
    whole, more = profiles.load_profile("toy"), profiles.load_profile("more")
    assert (whole.seed, more.seed) == (0, 2)
    assert "extra" in whole.tables and "extra" not in more.tables
    assert (more.tables["two"].x, more.tables["two"].shares) == (2, (1.0, 0.5))
    assert more.tables["one"] == whole.tables["one"] and more.tables["one"].n == 3


def test_a_benchmark_that_is_not_there_is_refused_before_any_stage(toy, monkeypatch, capsys):
    def refuse(stages, job):
        assert [stage.name for stage in stages] == ["model", "one", "two", "three"]
        raise NoSource("no source for gsm8k")

    monkeypatch.setattr(running, "check_data", refuse)
    assert run(toy) == (1, [])
    assert capsys.readouterr().err == "error: no source for gsm8k\n"


def test_the_benchmarks_of_the_stages_are_looked_for(offline):
    job = running.make_job("qwen2.5-coder-0.5b")
    with pytest.raises(NoSource, match="gsm8k"):
        running.check_data([stage for stage in STAGES if stage.name == "responses"], job)
    running.check_data([stage for stage in STAGES if stage.name == "evaluation"], running.make_job("cpu"))


def test_an_unknown_profile_or_data_folder_is_status_2(toy, capsys, monkeypatch):
    assert main(["nothing"]) == 2
    assert "unknown profile 'nothing': one of toy" in capsys.readouterr().err
    monkeypatch.setenv("DATA_DIR", "/no/such/folder")
    assert run(toy) == (2, [])
    assert "no such folder" in capsys.readouterr().err


# ------------------------------------------------------------------------- optional stages


def test_an_optional_stage_runs_when_asked_and_what_reads_it_runs_after(toy):
    write_text(toy.profile, PROFILE + "[extra]\nn = 1\n")
    assert run(toy) == (0, ["model", "one", "two", "three"])
    assert run(toy, "--stage", "extra") == (0, ["extra"])
    assert run(toy) == (0, ["three"])
    assert run(toy) == (0, [])


def test_an_optional_stage_is_no_part_of_a_profile_without_its_table(toy, capsys):
    assert run(toy, "--dry-run")[0] == 0 and "extra" not in capsys.readouterr().out
    assert run(toy, "--stage", "extra") == (2, [])
    assert "profile toy has no table [extra]" in capsys.readouterr().err


# ------------------------------------------------------------------------- the real thing


def test_the_stages_fit_together():
    names = [stage.name for stage in STAGES]
    written = [name for stage in STAGES for name in stage.writes]
    assert len(set(names)) == len(names)
    assert len(set(written)) == len(written)
    known: set[str] = set()
    for stage in STAGES:
        assert known >= set(stage.reads), stage.name
        known |= set(stage.writes)


@pytest.mark.parametrize("profile", profiles.names())
def test_every_profile_is_whole(profile):
    tables = profiles.load_profile(profile).tables
    assert profiles.settings_classes().keys() - profiles.optional_tables() <= tables.keys()


def test_help_and_dry_run_need_the_standard_library_only():
    for arguments in (["--help"], ["smoke", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )  # -S: without the installed packages
        assert done.returncode == 0, done.stderr
        for stage in STAGES if arguments == ["--help"] else running.stages_of(running.make_job("smoke"), None):
            assert stage.name in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--dry-run"], ["nothing"], ["--model", "./nothing"], ["test", "--help"]]
)
def test_the_script_answers_before_it_sets_anything_up(tmp_path, arguments):
    for name in ("reproduce.sh", "requirements.txt", "requirements-model.txt"):
        write_text(tmp_path / name, (ROOT / name).read_text())
    for folder in ("attention_rhythm", "evaluation", "analysis", "training", "profiles"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")  # its folder is the repository's
    done = subprocess.run(
        ["bash", str(tmp_path / "reproduce.sh"), *arguments], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if arguments[-1] in ("--help", "--dry-run") else 2), done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_requirements_are_pinned_and_name_no_place():
    text = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-model.txt").read_text()
    packages = [line.partition(";")[0].strip() for line in text.split("\n") if line and not line.startswith("#")]
    assert "torch==2.13.0" in packages
    assert all("==" in package and "/" not in package for package in packages)
    assert len({package.partition("==")[0].lower() for package in packages}) == len(packages)


def test_the_code_of_every_stage_can_be_read():
    for stage in STAGES:
        module = stage.function.partition(":")[0]
        assert f"{module.replace('.', '/')}.py" in code_of(module)


def test_the_script_can_be_called_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(ROOT / "reproduce.sh")
    done = subprocess.run(["bash", str(tmp_path / "link"), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "./reproduce.sh" in done.stdout


def test_an_environment_that_is_not_ours_is_left_alone(tmp_path):
    for name in ("reproduce.sh", "requirements.txt", "requirements-model.txt"):
        write_text(tmp_path / name, (ROOT / name).read_text())
    write_text(tmp_path / ".venv" / "precious", "mine")
    done = subprocess.run(["bash", str(tmp_path / "reproduce.sh"), "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and ".venv is there and this script did not make it" in done.stderr
    assert (tmp_path / ".venv" / "precious").read_text() == "mine"
