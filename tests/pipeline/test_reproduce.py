"""The command line: what runs, what is skipped, and what wrong input and killed runs leave behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attention_rhythm.files import append_jsonl, read_json, resume_jsonl, write_json, write_text
from pipeline import cli as reproduce
from pipeline.cli import ROOT
from pipeline.manifest import source_sha256
from pipeline.stages import STAGES, Stage

PROFILE = """
seed = 0
[model]
id = "smollm2-135m-instruct"
dtype = "float32"
device = "cpu"
[one]
task = "gsm8k"
n = 3
[two]
[three]
"""


class Toy:
    """Three toy stages in a repository of their own; `ran` lists those that ran, `fail` is raised by the second."""

    def __init__(self, folder: Path):
        self.root = folder / "results" / "toy"
        self.profile = folder / "profiles" / "toy.toml"
        self.ran: list[str] = []
        self.fail: BaseException | None = None
        write_text(self.profile, PROFILE)

    def model(self, run):
        self.ran.append("model")
        write_json(run.path("model.json"), {"sha256": f"hash of {run.model}"})

    def one(self, run):
        self.ran.append("one")
        done = resume_jsonl(run.partial("one.json"))
        self.resumed = len(done)
        for i in range(len(done), run.section("one")["n"]):
            if i == 2 and self.fail:
                raise self.fail
            append_jsonl(run.partial("one.json"), i)
        write_json(run.path("one.json"), resume_jsonl(run.partial("one.json")))

    def two(self, run):
        self.ran.append("two")
        write_json(run.path("two", "a.json"), sum(read_json(run.path("one.json"))) * 0)

    def extra(self, run):
        self.ran.append("extra")
        write_json(run.path("extra.json"), run.section("extra"))

    def three(self, run):
        self.ran.append("three")
        if self.fail:
            raise self.fail
        write_json(run.path("three.json"), read_json(run.path("two", "a.json")))
        write_text(run.path("tables", "table.md"), "| a |")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    toy = Toy(tmp_path)
    monkeypatch.setattr(reproduce, "PROFILES", tmp_path / "profiles")
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(sys.modules, "toy_stages", toy)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.delenv("REPRO_DEBUG", raising=False)
    monkeypatch.setattr(
        reproduce,
        "STAGES",
        (
            Stage("model", "a model", "toy_stages:model", (), ("model.json",), (), {"toy": 0.1}),
            Stage("one", "first", "toy_stages:one", ("model.json",), ("one.json",), ("one",), {"toy": 0.2}, data=True),
            Stage("two", "second", "toy_stages:two", ("one.json",), ("two/",), ("two",), {"toy": 0.3}),
            Stage("extra", "optional", "toy_stages:extra", ("model.json",), ("extra.json",), ("extra",), {},
                  optional=True, only_if_asked=True),
            Stage("three", "third", "toy_stages:three", ("two/",), ("three.json", "tables/"), ("three",), {},
                  also_reads=("extra.json",)),
        ),
    )  # fmt: skip
    return toy


def run(toy, *arguments):
    """Exit status, and the stages that ran."""
    toy.ran.clear()
    try:
        status = reproduce.main(["toy", *arguments])
    except SystemExit as stop:
        status = stop.code
    return status, toy.ran.copy()


# ------------------------------------------------------------------------- what runs, what is skipped


def test_everything_runs_once(toy, capsys):
    assert run(toy) == (0, ["model", "one", "two", "three"])
    assert "tables/table.md" in capsys.readouterr().out
    assert run(toy) == (0, [])
    assert capsys.readouterr().out.count("up to date") == 4


def test_a_changed_setting_runs_what_depends_on_it(toy):
    run(toy)
    write_text(toy.profile, PROFILE.replace("[two]", "[two]\nx = 1"))
    assert run(toy) == (0, ["two"])  # it writes the same as before, so the third is up to date after all
    write_text(toy.profile, PROFILE.replace("seed = 0", "seed = 1"))
    assert run(toy) == (0, ["model", "one", "two", "three"])


def test_another_model_runs_all(toy, tmp_path):
    run(toy)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert run(toy, "--model", str(tmp_path / "m")) == (0, ["model", "one", "two", "three"])


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


def test_a_dry_run_says_why_and_changes_nothing(toy, capsys):
    assert run(toy, "--dry-run") == (0, [])
    assert not toy.root.exists()
    out = capsys.readouterr().out
    assert out.count("would run: never ran") == 4
    assert "reads  one.json\n  writes two/" in out
    assert "about 0.2 min" in out
    run(toy)
    write_text(toy.profile, PROFILE.replace("[two]", "[two]\nx = 1"))
    capsys.readouterr()
    run(toy, "--dry-run")
    out = capsys.readouterr().out
    assert out.count("would be skipped: up to date") == 2
    assert "would run: settings, inputs or code changed" in out
    assert "would run: reads what two makes anew" in out


def test_the_manifest_says_what_made_each_file(toy):
    run(toy)
    entry = read_json(toy.root / "manifest.json")["two"]
    assert entry["seed"] == 0
    assert entry["model"] == "hash of smollm2-135m-instruct"
    assert entry["inputs"].keys() == {"one.json"}
    assert entry["outputs"].keys() == {"two/"}
    assert entry["config"] == {"model": {"dtype": "float32", "device": "cpu"}, "two": {}}
    assert entry["started"].endswith("+00:00")
    assert entry.keys() >= {"fingerprint", "packages", "python", "git", "hardware", "wall_seconds"}


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
    write_text(toy.profile, PROFILE.replace("n = 3", "n = 1"))
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
    write_text(toy.profile, PROFILE.replace("[three]", "[three]\nx = 1"))
    capsys.readouterr()
    assert run(toy) == (1, ["three"])
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in toy.root.rglob("*.json")} == before


def test_the_traceback_is_there_for_those_who_ask(toy, monkeypatch):
    toy.fail = ValueError("x")
    monkeypatch.setenv("REPRO_DEBUG", "1")
    with pytest.raises(reproduce.StageFailure) as caught:
        run(toy)
    assert caught.value.__cause__ is toy.fail


def test_a_stage_that_forgets_a_file_fails(toy, capsys):
    toy.model = lambda run: None
    assert run(toy)[0] == 1
    assert "stage model: it ended without writing model.json" in capsys.readouterr().err


def test_a_module_that_is_missing_is_named(toy, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "STAGES", (Stage("model", "", "evaluation.nothing:run", (), (), (), {}),))
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
        (PROFILE.replace("seed = 0", ""), "seed is missing"),
        (PROFILE.replace("[two]", "[deux]"), r"no table [two]"),
        (PROFILE.replace('dtype = "float32"', ""), "[model] lacks dtype"),
        (PROFILE.replace('task = "gsm8k"', ""), "[one] lacks task"),
    ],
)
def test_a_malformed_profile_is_status_2(toy, capsys, text, message):
    write_text(toy.profile, text)
    assert run(toy) == (2, [])
    assert message in capsys.readouterr().err


def test_an_unknown_profile_or_data_folder_is_status_2(toy, capsys, monkeypatch):
    assert reproduce.main(["nothing"]) == 2
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


@pytest.mark.parametrize("profile", sorted(file.stem for file in reproduce.PROFILES.glob("*.toml")))
def test_every_profile_is_whole_and_has_the_same_keys(profile):
    config = reproduce.load_profile(profile)
    reference = reproduce.load_profile("cpu")
    optional = {table for stage in STAGES if stage.optional for table in stage.sections}
    assert set(reference) - optional <= set(config) <= set(reference) | optional
    for table in set(config) & set(reference) - {"seed"}:
        assert set(config[table]) == set(reference[table]), table


def test_help_and_dry_run_need_the_standard_library_only():
    for arguments in (["--help"], ["smoke", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "reproduce", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )  # -S: without the installed packages
        assert done.returncode == 0, done.stderr
        for stage in STAGES if arguments == ["--help"] else reproduce.stages_of(reproduce.make_run("smoke"), None):
            assert stage.name in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--dry-run"], ["nothing"], ["--model", "./nothing"]])
def test_the_script_answers_before_it_sets_anything_up(tmp_path, arguments):
    for name in ("reproduce.sh", "pipeline/cli.py", "pipeline/stages.py", "requirements.txt", "requirements-model.txt"):
        write_text(tmp_path / name, (ROOT / name).read_text())
    for folder in ("evaluation", "profiles"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    done = subprocess.run(
        ["bash", str(tmp_path / "reproduce.sh"), *arguments], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if arguments[0] in ("--help", "--dry-run") else 2), done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_requirements_are_pinned_and_name_no_place():
    text = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-model.txt").read_text()
    packages = [line.partition(";")[0].strip() for line in text.split("\n") if line and not line.startswith("#")]
    assert "torch==2.13.0" in packages
    assert all("==" in package and "/" not in package for package in packages)
    assert len({package.partition("==")[0].lower() for package in packages}) == len(packages)


def test_the_source_hash_of_every_stage_can_be_computed():
    assert all(len(source_sha256(stage.function.partition(":")[0])) == 64 for stage in STAGES)
