"""The command line that runs the stages (pipeline/stages.py), which turn a model into the paper's tables and figures.

    ./reproduce.sh [PROFILE] [--stage NAME] [--dry-run] [--model ID_OR_PATH]
    ./reproduce.sh report [PROFILE] [--dry-run]

A stage whose results are there, and would be made the same way, is skipped; a run that was killed goes on where it was
when the same command is given again. `--help` and `--dry-run` need nothing but the standard library.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import time
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import clear_leftovers, locked, read_json, sha256_of, sha256_path, shown
from attention_rhythm.models import check_spec, model_signature
from attention_rhythm.provenance import environment
from evaluation.settings import Run
from pipeline.manifest import ROOT, Manifest, source_sha256
from pipeline.stages import STAGES, Stage

PROFILES = ROOT / "profiles"
RESULTS = ROOT / "results"


# -------------------------------------------------------------------------------------------- planning


def load_profile(name: str) -> dict[str, Any]:
    """profiles/NAME.toml. UsageError if there is none or it is malformed."""
    known = sorted(file.stem for file in PROFILES.glob("*.toml"))
    if name not in known:
        raise UsageError(f"unknown profile {name!r}: one of {', '.join(known)}")
    try:
        profile = tomllib.loads((PROFILES / f"{name}.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"profiles/{name}.toml: {error}") from error
    if not isinstance(profile.get("seed"), int):
        raise UsageError(f"profiles/{name}.toml: seed is missing or is not an integer")
    for table in ("model", *(section for stage in STAGES if not stage.optional for section in stage.sections)):
        if not isinstance(profile.get(table), dict):
            raise UsageError(f"profiles/{name}.toml: no table [{table}]")
    texts = [("model", key) for key in ("id", "dtype", "device")]
    for table, key in texts:
        if not isinstance(profile[table].get(key), str):
            raise UsageError(f"profiles/{name}.toml: [{table}] lacks {key}, a text")
    for table in (stage.sections[0] for stage in STAGES if stage.data):
        names = tasks_of(profile[table]) if {"task", "tasks"} & set(profile[table]) else [None]
        # a task's name becomes part of a file's name: no dots, no slashes
        if not all(isinstance(task, str) and task.isidentifier() for task in names):
            raise UsageError(f"profiles/{name}.toml: [{table}] lacks task, a name, or tasks, a list of names")
    return profile


def make_run(profile: str, model: str | None = None) -> Run:
    """The settings of a run, checked as far as that costs nothing. UsageError if something named does not exist."""
    config = load_profile(profile)
    settings = dict(config["model"])
    default = settings.pop("id")
    model = default if model is None else model
    check_spec(model)
    data_dir = Path(os.environ["DATA_DIR"]) if os.environ.get("DATA_DIR") else None
    if data_dir and not data_dir.is_dir():
        raise UsageError(f"DATA_DIR {data_dir}: no such folder")
    return Run(RESULTS / profile, profile, {**config, "model": settings}, config["seed"], model, data_dir)


def tasks_of(settings: dict[str, Any]) -> list[str]:
    """The benchmarks that a stage reads: `task` or `tasks` of its table."""
    return settings["tasks"] if "tasks" in settings else [settings["task"]]


def data_hashes(stage: Stage, run: Run) -> dict[str, str]:
    """Of the files in DATA_DIR that belong to the task of a stage that reads data, and of the stage's own `files`."""
    files = [file for pattern in stage.files for file in ROOT.glob(pattern)]
    if stage.data and run.data_dir is not None:
        for task in tasks_of(run.section(stage.sections[0])):
            files += run.data_dir.glob(f"{task}*")
    return {file.name: sha256_path(file) for file in sorted(files)}


def fingerprint(stage: Stage, run: Run, manifest: Manifest) -> str:
    """The hash of all that decides what the stage writes."""
    return sha256_of(
        {
            "stage": stage.name,
            "config": {table: run.section(table) for table in ("model", *stage.sections)},
            "seed": run.seed,
            "model": manifest.output_hash("model.json") if stage.reads else model_signature(run.model),
            "inputs": {name: manifest.output_hash(name) for name in stage.reads} | written(stage, manifest),
            "data": data_hashes(stage, run),
            "code": source_sha256(stage.function.partition(":")[0]),
        }
    )


def stages_of(run: Run, only: str | None) -> list[Stage]:
    """The stages of a run, in order: those of its profile, and the one that is asked for by name.

    UsageError if the profile has no settings for that one.
    """
    asked = next((stage for stage in STAGES if stage.name == only), None)
    if asked and (missing := [table for table in asked.sections if table not in run.config]):
        raise UsageError(
            f"profile {run.profile} has no table [{missing[0]}], the settings of stage {only}: add one to "
            f"profiles/{run.profile}.toml, as profiles/cpu.toml has it"
        )
    absent = {stage.name for stage in STAGES if stage.optional and not set(stage.sections) <= set(run.config)}
    return [s for s in STAGES if s.name == only or not (s.only_if_asked or s.name in absent)]


def written(stage: Stage, manifest: Manifest) -> dict[str, str]:
    """The hashes of what a stage also reads, of the files that there are."""
    return {name: digest for name in stage.also_reads if (digest := manifest.output_hash(name))}


def plan(run: Run, manifest: Manifest, only: str | None = None) -> dict[str, str]:
    """The stages that have to run and why, in order. `only`: that stage, and what it needs of earlier ones."""
    stages = stages_of(run, only)
    if only:
        stages = stages[: [stage.name for stage in stages].index(only) + 1]
    stale: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for stage in stages:
        reason, missing[stage.name] = manifest.problems(stage.name, fingerprint(stage, run, manifest))
        upstream = [
            other.name
            for other in stages
            if other.name in stale and set(other.writes) & {*stage.reads, *stage.also_reads}
        ]
        if reason or upstream:
            stale[stage.name] = reason or f"reads what {upstream[0]} makes anew"
    reasons: dict[str, str] = {}
    read: set[str] = set()  # by the stages that have to run
    for stage in reversed(stages):
        asked = only in (None, stage.name)
        gone = [name for name in missing[stage.name] if asked or name in read]
        if stage.name in stale and (asked or read & set(stage.writes)):
            reasons[stage.name] = stale[stage.name]
        elif gone:
            reasons[stage.name] = f"{', '.join(gone)} missing"
        if stage.name in reasons:
            read |= set(stage.reads)
    return {stage.name: reasons[stage.name] for stage in stages if stage.name in reasons}


# --------------------------------------------------------------------------------------------- running


def run_stage(stage: Stage, run: Run, manifest: Manifest) -> bool:
    """Run one stage and record it. False if it turns out that its results are up to date after all."""
    mark = fingerprint(stage, run, manifest)
    stale, missing = manifest.problems(stage.name, mark)
    if not stale and not missing:
        return False
    module, _, name = stage.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    config = {table: run.section(table) for table in ("model", *stage.sections)}
    mine = replace(run, config=config, fingerprint=mark)
    started, clock = datetime.now(UTC), time.monotonic()
    function(mine)
    if absent := [name for name in stage.writes if not (run.root / name).exists()]:
        raise ReproError(f"it ended without writing {', '.join(absent)}")
    manifest.record(
        stage.name,
        {
            "fingerprint": mark,
            "config": config,
            "seed": run.seed,
            "model": read_json(run.root / "model.json")["sha256"],
            "data": data_hashes(stage, run),
            "inputs": {name: manifest.output_hash(name) for name in stage.reads} | written(stage, manifest),
            "outputs": {name: manifest.output_hash(name) for name in stage.writes},
            "started": started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - clock, 1),
            **environment(),
        },
    )
    for name in stage.writes:
        for partial in run.root.glob(f".{name}.*.partial"):
            partial.unlink()
    return True


def run_all(run: Run, only: str | None) -> None:
    """Run what has to run, one line a stage as it goes, then a summary."""
    stages = stages_of(run, only)
    with locked(run.root):
        clear_leftovers(run.root)
        manifest = Manifest.load(run.root)
        reasons = plan(run, manifest, only)
        if upstream := [name for name in reasons if name != only] if only else []:
            print(f"{only} needs {', '.join(upstream)} first")
        states: dict[str, tuple[str, float]] = {}
        for number, stage in enumerate(stages, 1):
            if stage.name not in reasons:
                if only in (None, stage.name):
                    states[stage.name] = ("up to date", 0.0)
                continue
            print(
                f"[{number}/{len(stages)}] {stage.name}: {stage.help} "
                f"({reasons[stage.name]}; {expected(stage, run.profile)})",
                flush=True,
            )
            clock = time.monotonic()
            try:
                ran = run_stage(stage, run, manifest)
            except FAILURES as error:
                raise StageFailure(stage.name, error) from error
            except KeyboardInterrupt:
                raise StageInterrupt(stage.name) from None
            states[stage.name] = ("ran" if ran else "up to date", time.monotonic() - clock)
    print_summary(run, states)


def expected(stage: Stage, profile: str) -> str:
    return f"about {stage.minutes[profile]:g} min" if profile in stage.minutes else "time not measured"


def print_plan(run: Run, only: str | None) -> None:
    """What would be done: reads nothing but hashes, changes nothing."""
    reasons = plan(run, Manifest.load(run.root), only)
    print(f"profile {run.profile}, model {run.model}, seed {run.seed}, results in {shown(run.root)}/")
    stages = stages_of(run, only)
    for stage in stages:
        if stage.name in reasons:
            state = f"would run: {reasons[stage.name]}"
        else:
            why = "up to date" if only in (None, stage.name) else f"{only} does not need it run"
            state = f"would be skipped: {why}"
        print(f"\n{stage.name}: {stage.help}\n  {state}\n  {expected(stage, run.profile)}")
        print(f"  reads  {', '.join(stage.reads) or '-'}\n  writes {', '.join(stage.writes)}")
    minutes = sum(stage.minutes.get(run.profile, 0) for stage in stages if stage.name in reasons)
    print(f"\n{len(reasons)} of {len(stages)} stages would run" + (f", about {minutes:g} min" if minutes else ""))


def print_summary(run: Run, states: dict[str, tuple[str, float]]) -> None:
    print(f"\n{'stage':<14}{'state':<12}{'seconds':>8}")
    for name, (state, seconds) in states.items():
        print(f"{name:<14}{state:<12}{seconds:>8.1f}")
    tables = sorted(run.root.glob("tables/*.md"))
    print("\nresults: " + "\n         ".join(str(shown(path)) for path in [run.root, *tables]))


# ---------------------------------------------------------------------------------------- command line

# What bad input, a full disk or a missing package raise. Anything else is a mistake of the program, shown in full.
FAILURES = (ReproError, OSError, ValueError, RuntimeError, ImportError, MemoryError)


class StageFailure(ReproError):
    """A stage that failed, with the reason in one line."""

    def __init__(self, stage: str, error: BaseException):
        super().__init__(f"stage {stage}: {one_line(error)}")
        self.exit_status = getattr(error, "exit_status", 1)


class StageInterrupt(KeyboardInterrupt):
    """Ctrl-C; the stage that ran is its argument."""


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" ({shown(Path(error.filename))})" if error.filename else ""
        return f"the disk is full{where}; free some space and give the same command again"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
        return f"{shown(Path(error.filename))}: {error.strerror}; nothing can be written or read there"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: give the command without --no-venv, or install requirements.txt into the active python"
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, ReproError) else f"{type(error).__name__}: {lines[0]}"


def make_parser() -> argparse.ArgumentParser:
    stages = "\n".join(
        f"  {stage.name}: {stage.help}\n"
        f"    reads   {', '.join(stage.reads) or '-'}\n    writes  {', '.join(stage.writes)}\n"
        "    minutes " + ", ".join(f"{profile} {minutes:g}" for profile, minutes in stage.minutes.items())
        for stage in STAGES
    )
    parser = argparse.ArgumentParser(
        prog="./reproduce.sh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make the tables and figures: results/PROFILE/. Sets up .venv on first use.\n"
        "Also: ./reproduce.sh report [PROFILE] (results/PROFILE/report.html, from the results that are there);\n"
        "./reproduce.sh test [engines|verl] [pytest arguments];\n"
        "./reproduce.sh setup-engines (vLLM, Megatron-core for a CPU, in .venv-engines, 4 GB);\n"
        "./reproduce.sh setup-verl (verl for a CPU, in .venv-verl, 2 GB)",
        epilog="stages, in order (minutes: smoke and cpu on two cores; gpu and paper are estimates):\n"
        f"{stages}\n\n"
        "environment: DATA_DIR (folder of benchmark .jsonl files), HF_HUB_OFFLINE=1 (never ask the hub),\n"
        "             REPRO_DEBUG=1 (a full traceback on errors)\n"
        "exit status: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted",
    )
    add_common(parser)
    parser.add_argument(
        "--stage",
        metavar="NAME",
        choices=[stage.name for stage in STAGES],
        help="only this stage, after what it needs of earlier ones",
    )
    parser.add_argument("--extended", action="store_true", help="with --stage training: more seeds, hours")
    parser.add_argument("--model", metavar="ID_OR_PATH", help="a folder or a hub id, instead of the profile's model")
    return parser


def make_report_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./reproduce.sh report",
        description="Write results/PROFILE/report.html: tables, figures, training curves and tokens on one page that "
        "opens offline. It is made from the results that are there and runs no stage.",
    )
    add_common(parser)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    profiles = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
    parser.add_argument("profile", nargs="?", default="cpu", metavar="PROFILE", help=f"{profiles} (default: cpu)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and why, change nothing")
    parser.add_argument("--no-venv", action="store_true", help="use the python that is active instead of .venv")


def write_report(options: argparse.Namespace) -> None:
    run = make_run(options.profile)
    if not (run.root / "model.json").is_file():
        raise ReproError(f"no results in {shown(run.root)}/ yet: ./reproduce.sh {run.profile} makes them")
    page = run.root / "report.html"
    if options.dry_run:
        print(f"would write {shown(page)}")
        return
    importlib.import_module("figures.report").write(run, page)
    print(f"{shown(page)}: {page.stat().st_size / 2**20:.1f} MB, opens in any browser, offline")


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 done, 1 failed, 2 wrong usage (argparse exits with it too), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    report = arguments[:1] == ["report"]
    if report:
        options = make_report_parser().parse_args(arguments[1:])
    else:
        options = (parser := make_parser()).parse_args(arguments)
        if options.extended and options.stage != "training":
            parser.error("--extended goes with --stage training")
    try:
        if report:
            write_report(options)
        else:
            run = make_run(options.profile, options.model)
            stage = "training_extended" if options.extended else options.stage
            (print_plan if options.dry_run else run_all)(run, stage)
    except (ReproError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("REPRO_DEBUG") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt as interrupt:
        where = f" in stage {interrupt}" if isinstance(interrupt, StageInterrupt) else ""
        print(f"\ninterrupted{where}; what is finished is kept: the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
