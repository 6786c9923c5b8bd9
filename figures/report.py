"""The report of a profile: every table and figure, the training curves and the token view on one page.

    ./reproduce.sh report [PROFILE]

It is made from the files below results/PROFILE and opens offline: pictures are data URIs, style and script stand in the
page. What a result file is missing for is left out, with a sentence that says which command makes it.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from PIL import Image

from attention_rhythm.files import read_json, write_text
from evaluation.settings import Run
from figures import pages, token_view
from figures import run as _registers  # noqa: F401, what is made
from figures.inputs import EXPERIMENTS, OPTIONAL, STUDIES, MissingResult, Results
from figures.registry import Entry, of_section
from figures.report_text import SECTIONS, TOKENS, Section

# Stages that run when asked for, and how that is said.
TAKE_HOURS = {
    "training_extended": "training --extended",
    "ablations": "ablations",
    "power": "power",
    "knockout": "knockout",
    **{study: study for study in STUDIES},
}


def write(run: Run, page: Path, has: Collection[str]) -> None:
    """The report of `run.root` into `page`. has: the tables of the profile; an experiment without one is never run."""
    write_text(page, render(run, has))


def render(run: Run, has: Collection[str]) -> str:
    """The page."""
    data = Results(run.root, run.seed)
    payload, missing = _tokens(data, run)
    return pages.render(
        "report.html",
        profile=run.profile,
        model=data.model,
        sections=[_section(section, data, run, has) for section in SECTIONS],
        payload=payload,
        tokens_anchor=TOKENS,
        tokens_missing=missing,
        stages=_stages(run.root),
    )


def _section(section: Section, data: Results, run: Run, has: Collection[str]) -> dict:
    items = [
        (_figure if entry.kind == "figure" else _table)(entry, data, run, has) for entry in of_section(section.anchor)
    ]
    return {
        "anchor": section.anchor,
        "title": section.title,
        "text": section.text,
        "items": [item for item in items if item is not None],
    }


def _figure(entry: Entry, data: Results, run: Run, has: Collection[str]) -> dict | None:
    """None for a figure of an experiment that was not run: the experiment's table says so."""
    path = data.root / "figures" / f"{entry.name}.png"
    if not path.is_file():
        unmade = entry.experiment and not data.has(entry.experiment)
        return None if unmade else _missing(f"figures/{entry.name}.png", "figures", run, has)
    with Image.open(path) as image:
        width, height = image.size
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    shape = {"source": source, "width": width, "height": height}
    return {"kind": "figure", "name": entry.name, **shape, "caption": entry.caption}


def _table(entry: Entry, data: Results, run: Run, has: Collection[str]) -> dict:
    try:
        table = entry.of(data)
    except MissingResult as error:
        return _missing(error.path.name, error.stage, run, has)
    rows = table.shown.astype(str).to_numpy().tolist()
    columns = list(table.shown.columns)
    about = {"title": table.title, "note": table.note}
    return {"kind": "table", "name": entry.name, **about, "columns": columns, "rows": rows}


def _missing(what: str, stage: str, run: Run, has: Collection[str] = ()) -> dict:
    """A sentence in the place of a figure or a table."""
    if stage in OPTIONAL and stage not in has:
        what = f"{stage.replace('_', ' ')} runs" if stage in EXPERIMENTS else f"stage {stage}"
        text, command = f"Profile {run.profile} has no {what}.", ""
    else:
        text = f"{what} is not here. This makes it{', in hours' if stage in TAKE_HOURS else ''}:"
        command = f"./reproduce.sh {run.profile} --stage {TAKE_HOURS.get(stage, stage)}"
    return {"kind": "missing", "text": text, "command": command}


def _tokens(data: Results, run: Run) -> tuple[Markup | None, list[dict]]:
    """The token view's data, None where there are no tokens, and a sentence for each thing that it lacks."""
    missing = []
    try:
        tokens = data.tokens
    except MissingResult as error:
        return None, [_missing(error.path.name, error.stage, run)]
    try:
        tokens = data.credited_tokens
    except MissingResult as error:
        missing.append(_missing(f"γ is left out: {error.path.name}", error.stage, run))
    try:
        responses = data.responses
    except MissingResult as error:
        responses = pd.DataFrame(columns=["kind", "problem_id", "question"])
        missing.append(_missing(f"The questions are left out: {error.path.name}", error.stage, run))
    return pages.as_json(token_view.payload(tokens, responses, data.model)), missing


def _stages(root: Path) -> list[tuple[str, ...]]:
    """What made the results: one row a stage of the manifest, as they were made."""
    path = root / "manifest.json"
    entries = read_json(path) if path.is_file() else {}
    return [
        (
            stage,
            f"{datetime.fromisoformat(entry['started']):%Y-%m-%d %H:%M} UTC",
            f"{entry['wall_seconds'] / 60:.1f}",
            _commit(entry["git"]),
            _machine(entry["hardware"]),
        )
        for stage, entry in sorted(entries.items(), key=lambda pair: pair[1]["started"])
    ]


def _commit(git: dict | None) -> str:
    if git is None:
        return "no repository"
    if git["commit"] is None:
        return "not known"
    return f"{git['commit'][:12]}{' and changes' if git['dirty'] else ''}"


def _machine(hardware: dict) -> str:
    return ", ".join(hardware["gpus"]) or f"{hardware['cores']} cores, {hardware['cpu']}"
