"""What has to run, and running it: a stage whose results are there, and would be made the same way, is skipped; a run
that was killed goes on where it was when the same command is given again.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attention_rhythm.commands import FAILURES, one_line
from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import clear_leftovers, locked, read_json, sha256_of, sha256_path, shown
from attention_rhythm.models import check_spec, model_name, model_signature
from attention_rhythm.provenance import environment
from evaluation.settings import EvaluationConfig, ResponsesSettings, Run
from pipeline.manifest import ROOT, Manifest, code_of
from pipeline.profiles import Profile, load_profile
from pipeline.stages import STAGES, Stage

RESULTS = ROOT / "results"


# -------------------------------------------------------------------------------------------- planning


@dataclass(frozen=True)
class Job:
    """A run, and the profile it is of."""

    run: Run
    profile: Profile

    def settings(self, stage: Stage) -> list[Any]:
        """What the stage's function is given after the run."""
        return [self.profile.tables[table] for table in stage.settings]


def make_job(name: str, model: str | None = None) -> Job:
    """The settings of a run, checked as far as that costs nothing. UsageError if something named does not exist."""
    profile = load_profile(name)
    settings = profile.tables["model"]
    folder = name
    if model is not None:  # results of another model never lie among those of the profile's
        check_spec(model)
        settings = replace(settings, id=model)
        folder = f"{name}-{re.sub(r'[^A-Za-z0-9._-]+', '-', model_name(model))}"
    data_dir = Path(os.environ["DATA_DIR"]) if os.environ.get("DATA_DIR") else None
    if data_dir and not data_dir.is_dir():
        raise UsageError(f"DATA_DIR {data_dir}: no such folder")
    return Job(Run(RESULTS / folder, name, settings, profile.seed, data_dir), profile)


def benchmarks_of(settings: Any) -> tuple[str, ...]:
    """The benchmarks that a stage with these settings reads, from DATA_DIR or the hub."""
    if isinstance(settings, ResponsesSettings):
        return (settings.task,) if settings.source == "benchmark" else ()
    return settings.tasks if isinstance(settings, EvaluationConfig) else ()


def data_hashes(stage: Stage, job: Job) -> dict[str, str] | None:
    """Of the files in DATA_DIR of the benchmarks that a stage reads; None where they are not in a folder here."""
    tasks = [task for settings in job.settings(stage) for task in benchmarks_of(settings)]
    folder = job.run.data_dir
    files = [file for task in tasks for file in sorted(folder.glob(f"{task}*"))] if folder else []
    return {file.name: sha256_path(file) for file in files} if files or not tasks else None


def made_of(stage: Stage, job: Job, manifest: Manifest) -> dict[str, Any]:
    """All that decides what the stage writes (see `pipeline.manifest`)."""
    settings = {
        f"[{table}] {f.name}": _plain(getattr(own, f.name))
        for table, own in zip(stage.settings, job.settings(stage), strict=True)
        for f in fields(own)
        if f.metadata.get("decides", True)
    }
    precision = {f"[model] {name}": getattr(job.run.model, name) for name in ("dtype", "device")}
    files = sorted(file for pattern in stage.files for file in ROOT.glob(pattern))
    written = {name: digest for name in stage.also_reads if (digest := manifest.output_hash(name))}
    return {
        "settings": {**precision, **settings, "seed": job.run.seed},
        "model": manifest.output_hash("model.json") if stage.reads else sha256_of(model_signature(job.run.model.id)),
        "inputs": {name: manifest.output_hash(name) for name in stage.reads} | written,
        "data": data_hashes(stage, job),
        "code": {
            **code_of(stage.function.partition(":")[0]),
            **{file.relative_to(ROOT).as_posix(): sha256_path(file)[:16] for file in files},
        },
    }


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def stages_of(job: Job, only: str | None) -> list[Stage]:
    """The stages of a run, in order: those of its profile, and the one that is asked for by name.

    UsageError if the profile has no settings for that one.
    """
    asked = next((stage for stage in STAGES if stage.name == only), None)
    tables = set(job.profile.tables)
    if asked and (missing := [table for table in asked.settings if table not in tables]):
        name = job.profile.name
        raise UsageError(
            f"profile {name} has no table [{missing[0]}], the settings of stage {only}: add one to "
            f"profiles/{name}.toml, as profiles/cpu.toml has it"
        )
    absent = {stage.name for stage in STAGES if stage.optional and not set(stage.settings) <= tables}
    return [s for s in STAGES if s.name == only or not (s.only_if_asked or s.name in absent)]


def plan(job: Job, manifest: Manifest, only: str | None = None) -> dict[str, str]:
    """The stages that have to run and why, in order. `only`: that stage, and what it needs of earlier ones.

    A stage whose files are missing runs, but not for a file that is not kept and that nobody is going to read.
    """
    stages = stages_of(job, only)
    if only:
        stages = stages[: [stage.name for stage in stages].index(only) + 1]
    stale: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for stage in stages:
        reason, missing[stage.name] = manifest.problems(stage.name, made_of(stage, job, manifest))
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
        wanted = {*stage.writes} if only == stage.name else {*stage.writes} - {*stage.not_kept} if asked else set()
        gone = [name for name in missing[stage.name] if name in wanted | read]
        if stage.name in stale and (asked or read & set(stage.writes)):
            reasons[stage.name] = stale[stage.name]
        elif gone:
            reasons[stage.name] = f"{', '.join(gone)} missing"
        if stage.name in reasons:
            read |= set(stage.reads)
    return {stage.name: reasons[stage.name] for stage in stages if stage.name in reasons}


# --------------------------------------------------------------------------------------------- running


def run_stage(stage: Stage, job: Job, manifest: Manifest) -> bool:
    """Run one stage and record it. False if it turns out that its results are up to date after all."""
    run, made = job.run, made_of(stage, job, manifest)
    stale, missing = manifest.problems(stage.name, made)
    if not stale and not missing:
        return False
    module, _, name = stage.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    started, clock = datetime.now(UTC), time.monotonic()
    function(replace(run, mark=sha256_of(made)), *job.settings(stage))
    if absent := [name for name in stage.writes if not (run.root / name).exists()]:
        raise ReproError(f"it ended without writing {', '.join(absent)}")
    manifest.record(
        stage.name,
        {
            "made_of": made,
            "settings": {table: asdict(own) for table, own in zip(stage.settings, job.settings(stage), strict=True)},
            "model": {"id": shown_model(run), "sha256": read_json(run.root / "model.json")["sha256"]},
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


def shown_model(run: Run) -> str:
    """The model as a record names it: no path of this machine."""
    return model_name(run.model.id) if Path(run.model.id).expanduser().is_dir() else run.model.id


def check_data(stages: list[Stage], job: Job) -> None:
    """NoSource, before any work, for a benchmark that is neither in DATA_DIR nor to be had from the hub."""
    tasks = [task for stage in stages for settings in job.settings(stage) for task in benchmarks_of(settings)]
    if tasks:
        from attention_rhythm.tasks.problems import load_problems  # --dry-run does without what this imports

        for task in dict.fromkeys(tasks):
            load_problems(task, limit=1, data_dir=job.run.data_dir, source="benchmark")


def run_all(job: Job, only: str | None) -> None:
    """Run what has to run, one line a stage as it goes, then a summary."""
    stages = stages_of(job, only)
    run = job.run
    with locked(run.root):
        clear_leftovers(run.root)
        manifest = Manifest.load(run.root)
        reasons = plan(job, manifest, only)
        if upstream := [name for name in reasons if name != only] if only else []:
            print(f"{only} needs {', '.join(upstream)} first")
        check_data([stage for stage in stages if stage.name in reasons], job)
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
                ran = run_stage(stage, job, manifest)
            except FAILURES as error:
                raise StageFailure(stage.name, error) from error
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"stage {stage.name}") from None
            states[stage.name] = ("ran" if ran else "up to date", time.monotonic() - clock)
    print_summary(run, states)


def expected(stage: Stage, profile: str) -> str:
    """How long a stage takes, in words."""
    return f"about {stage.minutes[profile]:g} min" if profile in stage.minutes else "time not measured"


def print_plan(job: Job, only: str | None) -> None:
    """What would be done: reads nothing but hashes, changes nothing."""
    run = job.run
    reasons = plan(job, Manifest.load(run.root), only)
    print(f"profile {run.profile}, model {shown_model(run)}, seed {run.seed}, results in {shown(run.root)}/")
    stages = stages_of(job, only)
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
    """What each stage did, its seconds, and where the results are."""
    print(f"\n{'stage':<14}{'state':<12}{'seconds':>8}")
    for name, (state, seconds) in states.items():
        print(f"{name:<14}{state:<12}{seconds:>8.1f}")
    if all(state == "up to date" for state, _ in states.values()):
        print(f"\nnothing had to run; delete {shown(run.root)}/ to make all of it anew")
    tables = sorted(run.root.glob("tables/*.md"))
    print("\nresults: " + "\n         ".join(str(shown(path)) for path in [run.root, *tables]))


# -------------------------------------------------------------------------------------------- failures


class StageFailure(ReproError):
    """A stage that failed, with the reason in one line."""

    def __init__(self, stage: str, error: BaseException):
        super().__init__(f"stage {stage}: {one_line(error)}")
        self.exit_status = getattr(error, "exit_status", 1)
