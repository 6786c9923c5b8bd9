"""What comes from outside (completions, models, names, text for a page) is data: never run, never waited for long."""

import html
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import write_jsonl
from attention_rhythm.models import load_model
from attention_rhythm.tasks.problems import load_problems
from evaluation import run as evaluation_run
from figures import token_view
from pipeline import cli, profiles, running
from pipeline.manifest import ROOT

HERE = Path(__file__).parent
COMPLETIONS = 10_000
PROCESSES = 2


# --- completions ----------------------------------------------------------------------------------------------------

# What math-verify has Python compile: SymPy's constructors around numbers and letters (parse_expr), and what libraries
# make of their own names (dataclasses, named tuples, polynomial rings). Nothing else of a completion may get there.
CONSTRUCTORS = "Integer|Float|Rational|Symbol|E|Add|Mul|Pow|evaluate=False"
ARITHMETIC = re.compile(rf"(?:\b(?:{CONSTRUCTORS})\b|'[\w.]*'|[\d\s.,()+\-*/×÷])*")
OF_LIBRARIES = ("from sympy import *", "def __create_fn__(", "def monomial_", "lambda _cls, integrand, ", "Expr")
LIBRARIES = {"sympy", "mpmath", "latex2sympy2_extended", "math_verify", "antlr4", "resource"}
HARMLESS = {"os.listdir", "resource.setrlimit"}  # SymPy finds its modules; the judge's child limits itself


@pytest.mark.long
def test_ten_thousand_hostile_completions_are_graded_in_time_and_run_nothing(tmp_path):
    log = tmp_path / "audit.jsonl"
    (tmp_path / "cwd").mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE / "audit"), str(ROOT)]), "AUDIT_LOG": str(log),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.support.hostile", str(COMPLETIONS // PROCESSES)]
    graders = [
        subprocess.Popen(
            [*command, str(seed)], cwd=tmp_path / "cwd", env=environment, stdout=subprocess.PIPE, text=True
        )
        for seed in range(PROCESSES)
    ]
    reports = [json.loads(grader.communicate(timeout=1200)[0]) for grader in graders]
    for report in reports:
        for task, (seconds, text) in report["slowest"].items():
            assert seconds < 2, (task, text)
        assert report["right"] < 0.2 * report["count"]  # some hold the answer, most do not
    assert not list((tmp_path / "cwd").iterdir())

    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"compile", "exec", "os.fork"} <= {event for _, event, _ in events}  # somebody was listening
    assert len({pid for pid, event, _ in events if event == "os.fork"}) == PROCESSES  # the judges' nurseries alone
    assert [detail for _, event, detail in events if not harmless(event, detail)] == []


def harmless(event: str, detail) -> bool:
    match event:
        case "compile":
            return detail.startswith(OF_LIBRARIES) or bool(ARITHMETIC.fullmatch(detail))
        case "exec":  # of a text that was compiled, or of a module
            return detail in ("<string>", "<unknown>") or detail.endswith(".py")
        case "import":
            return detail[0].partition(".")[0] in LIBRARIES
        case "open":
            return detail[1].startswith("r") or detail[1] == "None"
        case "socket.__new__":  # a pipe between the judge's nursery and its child
            return detail.endswith(f", {socket.AF_UNIX:d}, {socket.SOCK_STREAM:d}, 0)")
        case _:
            return event in HARMLESS or event == "os.fork"


def test_the_audit_hears_what_it_should(tmp_path):
    """Else the test above would pass for deafness: code that a grader might run by mistake is written down."""
    script = "import sitecustomize; sitecustomize.armed = True; eval(\"__import__('os').system('touch SENTINEL')\")"
    environment = os.environ | {"PYTHONPATH": str(HERE / "audit"), "AUDIT_LOG": str(tmp_path / "log")}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (tmp_path / "SENTINEL").exists()
    bad = {event for _, event, detail in events if not harmless(event, detail)}
    assert bad >= {"compile", "os.system"}


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_model_folder, tmp_path):
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


class Hostile:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_beside_or_instead_of_the_weights_is_never_opened(model, tmp_path, name):
    sentinel = tmp_path / "SENTINEL"
    (model / name).write_bytes(pickle.dumps(Hostile(sentinel)))
    load_model(str(model))  # the safetensors are taken, the pickle is not looked at
    (model / "model.safetensors").unlink()
    with pytest.raises(ReproError, match=rf"only pickled weights \({name}\), which can run code"):
        load_model(str(model))
    shutil.move(model / name, model / "model.safetensors")  # under the name of the other kind
    with pytest.raises(ReproError, match="damaged"):
        load_model(str(model))
    assert not sentinel.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_refused_and_never_imported(model, tmp_path, file):
    sentinel = tmp_path / "SENTINEL"
    (model / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')\nclass Model: pass\n")
    config = json.loads((model / file).read_text())
    names = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Model", "AutoTokenizer": ["evil.Model", None]}
    (model / file).write_text(json.dumps(config | {"auto_map": names}))
    with pytest.raises(ReproError, match=f"{file} asks for code"):
        load_model(str(model))
    assert not sentinel.exists()


# --- names ----------------------------------------------------------------------------------------------------------

PATHS = ["../secret", "/etc/passwd", "secret\0", "gsm8k/../../secret", "..", ".", "*", "~", "gsm8k\n", "C:\\secret", ""]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """DATA_DIR, and beside it a file that nobody may read."""
    row = {"question": "1 + 1?", "answer": "#### 2"}
    for name in ("secret", "secret_test.jsonl", "data/gsm8k_test.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [row])
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", PATHS)
def test_a_name_of_a_benchmark_cannot_leave_its_folder(data_dir, name, monkeypatch, tmp_path, capsys):
    assert len(load_problems("gsm8k")) == 1
    with pytest.raises(ValueError, match="unknown task"):
        load_problems(name)
    with pytest.raises(ValueError, match="no split"):
        load_problems("gsm8k", split=name)
    try:
        assert evaluation_run.main(["--model", "nothing/here", "--tasks", name]) == 2
    except SystemExit as stop:
        assert stop.code == 2
    (tmp_path / "profiles").mkdir()
    monkeypatch.setattr(profiles, "PROFILES", tmp_path / "profiles")
    for text in (f"[responses]\ntask = {json.dumps(name)}", f"[evaluation]\ntasks = [{json.dumps(name)}]"):
        (tmp_path / "profiles" / "smoke.toml").write_text(text)
        with pytest.raises(UsageError, match="a task is a name"):
            running.make_job("smoke")
    for command in (["--stage", name], [name or "."]):
        try:
            assert cli.main([*command, "--dry-run"]) == 2
        except SystemExit as stop:
            assert stop.code == 2
    assert "secret" not in " ".join(os.listdir(data_dir))


# --- pages ----------------------------------------------------------------------------------------------------------

SCRIPT = (
    "</script><script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\">"
    "<svg onload=\"document.title = 'hacked'\">&lt;{{7*7}}\u2028<!--<script>"
)


@pytest.fixture
def page(tmp_path):
    """The token heatmap of a model that writes nothing but attacks, in every text that the page shows."""
    values = np.linspace(0.0, 1.0, 6)
    tokens = pd.DataFrame(
        {"response": SCRIPT, "t": range(6), "token": [SCRIPT, "a", " b", SCRIPT, "\n", "c"], "waad": values,
         "fai": values, "entropy": values, "waad_peak": True, "fai_peak": False, "entropy_peak": False}
    )  # fmt: skip
    responses = pd.DataFrame(
        {"kind": ["sampled"], "problem_id": [SCRIPT], "question": [SCRIPT], "answer": [SCRIPT], "correct": [False],
         "finish_reason": ["stop"]}
    )  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(token_view.page(tokens, responses, {"spec": SCRIPT, "sha256": "0" * 64}), encoding="utf-8")
    return path


def test_what_a_model_writes_is_no_mark_up_in_the_page(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script") == 2  # the data and the program
    assert "hacked" in text and "<img" not in text and "<svg" not in text and "<!--" not in text


def test_what_a_model_writes_shows_as_text_in_a_browser(page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--virtual-time-budget=5000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S)
    assert "<title>hacked" not in shown
    assert not re.search(r"<(img|svg|script)\b", shown)
    seen = html.unescape(re.sub(r"<[^>]*>", "", shown))
    assert seen.count(SCRIPT.replace("\u2028", "")) + seen.count(SCRIPT) >= 2  # both tokens, to the letter
