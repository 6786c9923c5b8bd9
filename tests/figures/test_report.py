"""The report: one file with everything in it, whatever is missing, on a phone and by keyboard."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attention_rhythm.files import write_json, write_table
from evaluation.settings import Run
from figures import report
from figures import run as figures_stage
from figures.registry import ENTRIES
from pipeline import cli, running
from tests.support import browser

with_chromium = pytest.mark.skipif(
    not (browser.BROWSER and browser.DRIVER), reason="chromium and chromedriver are not installed"
)

RIGHT, TAB, ENTER = "\ue014", "\ue004", "\ue007"  # keys, as WebDriver names them
RUN = Run(Path("nowhere"), "smoke")
HAS = {"training"}
EVIL = '</script><script>alert("x")</script>"><img src=x onerror=alert(1)>'
MANIFEST = {
    "figures": {
        "started": "2026-01-02T03:04:05+00:00",
        "wall_seconds": 90.0,
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "hardware": {"cores": 2, "cpu": "a CPU", "gpus": []},
    }
}
MANIFEST["notebooks"] = {**MANIFEST["figures"], "git": None}  # made from a download, not from a clone


@pytest.fixture(scope="module")
def finished(results_root, tmp_path_factory):
    """Synthetic results with figures and tables."""
    root = tmp_path_factory.mktemp("report") / "synthetic"
    shutil.copytree(results_root, root)
    figures_stage.run(replace(RUN, root=root))
    write_json(root / "manifest.json", MANIFEST)
    return root


def page_of(root: Path, has=HAS, **changes) -> str:
    return report.render(replace(RUN, root=root, **changes), has)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy to take files from."""
    return Path(shutil.copytree(finished, tmp_path / "synthetic"))


class Outline(HTMLParser):
    """The elements of a page and their attributes; closing tags are checked on the way."""

    EMPTY = ("meta", "img", "input", "br")

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


# ------------------------------------------------------------------------------------------ the text

ABSENT = (
    "training_extended",
    "ablations",
    "token_values",
    "power",
    "correctness",
    "knockout",
)  # what the synthetic results have not


def test_everything_is_there_once_and_named(finished):
    outline = Outline(page_of(finished))
    ids = [attributes["id"] for _, attributes in outline.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    absent = {name for name, entry in ENTRIES.items() if entry.experiment in ABSENT}
    shown = {f"{'figure' if name.startswith('fig') else 'table'}-{name}" for name in ENTRIES.keys() - absent}
    assert {name for name in ids if re.match("figure-|table-", name)} == shown
    assert {"token-view", "making"} <= set(ids)
    assert {link["href"].removeprefix("#") for link in outline.of("a")} <= set(ids)
    assert all(image["alt"] and int(image["width"]) > 300 for image in outline.of("img"))
    assert all(region["aria-label"] for _, region in outline.found if region.get("role") == "region")
    assert [attributes["lang"] for attributes in outline.of("html")] == ["en"]
    assert "width=device-width" in str(outline.of("meta"))
    labelled = {label.get("for") for label in outline.of("label")}
    assert all(select["id"] in labelled for select in outline.of("select"))


def test_every_figure_has_a_caption_and_everything_a_section_and_a_place():
    sections = {section.anchor for section in report.SECTIONS}
    assert all(bool(entry.caption) == (entry.kind == "figure") for entry in ENTRIES.values())
    assert {entry.section for entry in ENTRIES.values()} == sections - {report.TOKENS}
    places = [(entry.section, entry.place) for entry in ENTRIES.values()]
    assert len(set(places)) == len(places)


def test_nothing_is_loaded_from_outside(finished):
    page = page_of(finished)
    outline = Outline(page)
    for tag, attributes in outline.found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attributes:
                assert re.match(r"data:image/png;base64,|#", attributes[name]), (tag, name)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    policy = [meta["content"] for meta in outline.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'; img-src data:;")
    without_data = re.sub(r'base64,[^"]+|<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert not re.search(r"https?:|//\w+\.|@import|url\(|fetch\(|XMLHttpRequest|import\(", without_data)


def test_what_a_model_or_a_name_says_stays_text(copied):
    tokens = pd.read_parquet(copied / "tokens.parquet")
    tokens.loc[0, "token"] = EVIL
    write_table(copied / "tokens.parquet", tokens)
    model = json.loads((copied / "model.json").read_text())
    write_json(copied / "model.json", {**model, "spec": EVIL})
    page = page_of(copied, profile=EVIL)
    outline = Outline(page)
    assert len(outline.of("script")) == 2 and EVIL not in page and "onerror" not in str(outline.of("img"))
    payload = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))
    assert payload["responses"][0]["tokens"][0] == EVIL
    assert "gamma" in payload["responses"][0]["values"]


def test_numbers_are_those_of_the_tables(finished):
    page = page_of(finished)
    assert "50.0 [20.0, 80.0]" in page and "Table 2. Coupling of WAAD, FAI and entropy" in page
    assert ">opposite</td>" in page and ">not run</td>" in page
    assert (
        "0123456789ab and changes" in page
        and "no repository" in page
        and "2026-01-02 03:04 UTC" in page
        and ">1.5</td>" in page
    )


# ----------------------------------------------------------------------------------- what is missing


def test_a_clone_has_its_tokens_without_questions(copied):
    """git keeps no responses.jsonl: it has the benchmark's questions in it."""
    for name in ("responses.jsonl", "token_heatmap.html"):
        (copied / name).unlink()
    page = page_of(copied)
    assert "The questions are left out: responses.jsonl is not here." in page
    assert "./reproduce.sh smoke --stage responses" in page
    payload = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))
    assert payload["responses"][0]["label"] == "1. p0" and payload["responses"][0]["question"] == ""


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["token_credit.parquet"], "γ is left out: token_credit.parquet is not here."),
        (["tokens.parquet"], "./reproduce.sh smoke --stage couplings"),
        (["couplings.json"], "couplings.json is not here. This makes it: <code>./reproduce.sh smoke --stage couplings"),
        (["figures/fig2_attention.png"], "figures/fig2_attention.png is not here."),
        (["training.json", "figures/fig_training.png"], "./reproduce.sh smoke --stage training</code>"),
        (["manifest.json"], "How it was made"),
    ],
)
def test_what_is_missing_names_the_command_and_the_rest_is_shown(copied, gone, said):
    for name in gone:
        (copied / name).unlink()
    page = page_of(copied)
    Outline(page)
    assert said in page and 'id="table-table1_perturbation"' in page


def test_experiments_that_take_hours_name_their_command(finished):
    page = page_of(finished, {"training", "training_extended", "ablations"})
    assert "./reproduce.sh smoke --stage training --extended" in page
    assert "./reproduce.sh smoke --stage ablations" in page
    assert "Profile smoke has no training extended runs." in page_of(finished)


def test_the_command_writes_the_page(finished, monkeypatch, capsys):
    monkeypatch.setattr(running, "RESULTS", finished.parent)
    shutil.copytree(finished, finished.parent / "smoke")
    assert cli.main(["report", "smoke", "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out and not (finished.parent / "smoke" / "report.html").exists()
    assert cli.main(["report", "smoke"]) == 0
    assert (finished.parent / "smoke" / "report.html").read_text().startswith("<!doctype html>")
    assert "opens in any browser" in capsys.readouterr().out
    assert cli.main(["report", "cpu"]) == 1
    assert "./reproduce.sh cpu makes them" in capsys.readouterr().err
    assert cli.main(["report", "nothing"]) == 2


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def page(finished):
    path = finished / "report.html"
    report.write(replace(RUN, root=finished), path, HAS)
    return path


@with_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(page, width, tmp_path):
    with browser.Browser(tmp_path / "profile", width) as window:
        window.open(page)
        assert window.complaints() == []
        assert window.run("return document.documentElement.scrollWidth") == width
        small = window.run(
            "return [...document.querySelectorAll('select, button, nav a')].filter("
            "node => node.getBoundingClientRect().height < 36).length"
        )
        assert small == 0, "controls that a finger misses"
        assert window.run("return [...document.images].every(image => image.complete && image.naturalWidth > 300)")
        window.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.width == width and len(np.unique(np.asarray(image.convert("L")))) > 50


@with_chromium
def test_it_is_used_by_keyboard(page, tmp_path):
    with browser.Browser(tmp_path / "profile", 390) as window:
        window.open(page)
        window.press(TAB)
        assert window.run("return document.activeElement.className") == "skip"
        window.press(ENTER)
        assert window.run("return location.hash + document.activeElement.id") == "#summarysummary"
        window.run("document.getElementById('tokens').focus()")
        window.press(RIGHT, RIGHT)
        shown = "return document.getElementById('values').textContent"
        said = window.run(shown)
        assert said.startswith("position2 (3 of ")
        for name in ("WAAD", "FAI", "Entropy", "Credit γ"):
            assert name in said
        window.press("n")
        assert "▲ peak" in window.run(shown)
        window.run("document.getElementById('next').focus()")
        window.press(ENTER)
        assert window.run("return document.getElementById('response').value") == "1"
        window.run("document.querySelector('#signals input[value=\"4\"]').click()")
        assert "coupled-rhythm" in window.run("return document.getElementById('meaning').textContent")
        assert window.complaints() == []
