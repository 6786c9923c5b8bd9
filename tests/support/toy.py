"""A pipeline of toy stages in a repository of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attention_rhythm.files import append_jsonl, read_json, resume_jsonl, write_json, write_text
from evaluation.settings import ResponsesSettings, Run
from pipeline import cli, profiles, running
from pipeline.stages import Stage

PROFILE = """
seed = 0
[model]
id = "smollm2-135m-instruct"
[one]
n = 3
[data]
source = "benchmark"
"""


@dataclass(frozen=True)
class One:
    """Settings of the first stage."""

    n: int = 5  # numbers to write
    workers: int = field(default=1, metadata={"decides": False})  # changes nothing


@dataclass(frozen=True)
class Two:
    """Settings of the second and third stage."""

    x: int = 0
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Extra:
    """Settings of the optional stage."""

    n: int


class Toy:
    """Toy stages; `ran` lists those that ran, `fail` is raised by the first and the third."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "results" / "toy"
        self.profile = folder / "profiles" / "toy.toml"
        self.ran: list[str] = []
        self.fail: BaseException | None = None
        write_text(self.profile, PROFILE)

    def model(self, run: Run) -> None:
        self.ran.append("model")
        write_json(run.path("model.json"), {"sha256": f"hash of {run.model.id}"})

    def one(self, run: Run, settings: One, data: ResponsesSettings) -> None:
        self.ran.append("one")
        done = resume_jsonl(run.partial("one.json"))
        self.resumed = len(done)
        for i in range(len(done), settings.n):
            if i == 2 and self.fail:
                raise self.fail
            append_jsonl(run.partial("one.json"), i)
        write_json(run.path("one.json"), resume_jsonl(run.partial("one.json")))

    def two(self, run: Run, settings: Two) -> None:
        self.ran.append("two")
        write_json(run.path("two", "a.json"), sum(read_json(run.path("one.json"))) * 0)

    def extra(self, run: Run, settings: Extra) -> None:
        self.ran.append("extra")
        write_json(run.path("extra.json"), settings.n)

    def three(self, run: Run, settings: Two) -> None:
        self.ran.append("three")
        if self.fail:
            raise self.fail
        write_json(run.path("three.json"), read_json(run.path("two", "a.json")))
        write_text(run.path("page.html"), "a page")
        write_text(run.path("tables", "table.md"), "| a |")


STAGES = (
    Stage("model", "a model", "toy_stages:model", (), ("model.json",), {"toy": 0.1}),
    Stage("one", "first", "toy_stages:one", ("model.json",), ("one.json",), {"toy": 0.2},
          settings={"one": One, "data": ResponsesSettings}, not_kept=("one.json",)),
    Stage("two", "second", "toy_stages:two", ("one.json",), ("two/",), {"toy": 0.3}, settings={"two": Two}),
    Stage("extra", "optional", "toy_stages:extra", ("model.json",), ("extra.json",), {}, settings={"extra": Extra},
          optional=True, only_if_asked=True),
    Stage("three", "third", "toy_stages:three", ("two/",), ("three.json", "page.html", "tables/"), {},
          settings={"three": Two}, also_reads=("extra.json",), not_kept=("page.html",)),
)  # fmt: skip


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The pipeline of a folder; the real one is back when the test ends."""
    toy = Toy(folder)
    monkeypatch.setattr(profiles, "PROFILES", folder / "profiles")
    monkeypatch.setattr(running, "RESULTS", folder / "results")
    monkeypatch.setattr(running, "check_data", lambda stages, job: None)
    monkeypatch.setitem(sys.modules, "toy_stages", toy)
    for name in ("DATA_DIR", "MODEL_DIR", "REPRO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    for module in (cli, profiles, running):
        monkeypatch.setattr(module, "STAGES", STAGES)
    return toy


def run(toy: Toy, *arguments: str) -> tuple[int, list[str]]:
    """Exit status, and the stages that ran."""
    toy.ran.clear()
    try:
        status = cli.main(["toy", *arguments])
    except SystemExit as stop:
        status = stop.code
    return status, toy.ran.copy()
