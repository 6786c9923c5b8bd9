"""The notebooks: committed without outputs, run on synthetic results, and say where they fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import nbformat
import pytest

from attention_rhythm.errors import ReproError
from figures import run as figures_stage
from pipeline import notebooks
from pipeline.manifest import ROOT

BOOKS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))


def test_all_are_there():
    names = ["01_rhythm", "02_perturbation", "03_training", "04_evaluation", "05_paper_tables"]
    assert [book.stem for book in BOOKS] == names


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_committed_without_outputs_and_with_parameters(book):
    cells = nbformat.read(book, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].source.startswith('results = "../results/cpu"')
    assert cells[0].cell_type == "markdown" and "What you will see" in cells[0].source
    assert sum(len(cell.source.splitlines()) for cell in code) < 60, "a notebook calls the library, it does not copy it"


def test_stage_runs_them(results_root, tmp_path, make_run, monkeypatch):
    root = tmp_path / "synthetic"
    shutil.copytree(results_root, root)
    run = make_run(root)
    figures_stage.run(run)
    # A machine where no python is on PATH and no kernel is installed for the user.
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.environ.get("JUPYTER_PATH")
    notebooks.run(run)
    assert os.environ.get("JUPYTER_PATH") == before
    assert sorted(path.name for path in (root / "notebooks").iterdir()) == [book.name for book in BOOKS]
    for book in BOOKS:
        text = (root / "notebooks" / book.name).read_text()
        made = nbformat.reads(text, as_version=4)
        outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type in ("error", "stream")]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert any("**" in str(output.get("data", {}).get("text/markdown", "")) for output in outputs)
        assert "papermill" not in made.metadata and "start_time" not in text


@pytest.mark.long
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_clone_opens_them_on_what_git_holds(book, tmp_path):
    """As they are committed, without the files that only a run of the pipeline leaves (responses.jsonl, signals/)."""
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={tmp_path}/"], cwd=ROOT, check=True)
    made = nbformat.reads(notebooks.execute(tmp_path / "notebooks" / book.name, {}), as_version=4)
    assert any("image/png" in output.get("data", {}) for cell in made.cells for output in cell.get("outputs", []))


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell('results = "x"', metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "no-such-kernel", "display_name": "elsewhere", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_an_error_names_notebook_and_cell(tmp_path):
    book = write(tmp_path / "broken.ipynb", "fine = 1", 'raise ValueError("first line\\nsecond line")')
    with pytest.raises(ReproError) as caught:
        notebooks.execute(book, {"results": "here"})
    message = str(caught.value)
    assert message.startswith("broken.ipynb, cell 4 (raise ValueError(") and message.endswith("ValueError: first line")
    assert list(tmp_path.iterdir()) == [book]


@pytest.mark.parametrize(
    "source, reason", [("import time; time.sleep(60)", "took over 3 s"), ("import os; os._exit(1)", "the kernel died")]
)
def test_a_hang_and_a_dead_kernel_name_the_cell(tmp_path, source, reason):
    book = write(tmp_path / "stuck.ipynb", source)
    with pytest.raises(ReproError, match=rf"stuck.ipynb, cell 3 \(import .*\): {reason}"):
        notebooks.execute(book, {"results": "here"}, timeout=3)


def test_parameters_reach_the_notebook(tmp_path):
    book = write(tmp_path / "echo.ipynb", "print(results)")
    made = json.loads(notebooks.execute(book, {"results": "../results/cpu"}))
    assert made["cells"][-1]["outputs"][0]["text"] in ("../results/cpu\n", ["../results/cpu\n"])
