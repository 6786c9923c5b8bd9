"""Stage `notebooks`: run notebooks/*.ipynb on this profile's results, into results/PROFILE/notebooks/."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_text
from evaluation.settings import Run

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
KERNEL = "running-python"
START_TIMEOUT = 120  # seconds: a cold disk and busy cores
CELL_TIMEOUT = 300  # seconds
OF_OPTIONAL_STAGES = {"03_training.ipynb": "training.json"}  # left out where the profile has no such stage


def run(run: Run) -> None:
    """Execute every notebook that there are results for, with its parameter `results` set to this run's folder."""
    left_out = {name for name, needed in OF_OPTIONAL_STAGES.items() if not (run.root / needed).exists()}
    chosen = [notebook for notebook in sorted(NOTEBOOKS.glob("*.ipynb")) if notebook.name not in left_out]
    for notebook in tqdm(chosen, desc="notebooks", unit="notebook"):
        # The kernel works in notebooks/, as it does when the notebook is opened by hand.
        results = Path(os.path.relpath(run.root.resolve(), NOTEBOOKS)).as_posix()
        write_text(run.path("notebooks", notebook.name), execute(notebook, {"results": results}))


def execute(notebook: Path, parameters: dict, timeout: int = CELL_TIMEOUT) -> str:
    """The executed notebook as JSON text. ReproError that names notebook and cell if a cell fails or takes too long."""
    with tempfile.TemporaryDirectory() as folder, kernelspec(Path(folder)):
        output = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                notebook, output, parameters, kernel_name=KERNEL, cwd=notebook.parent, progress_bar=False,
                start_timeout=START_TIMEOUT, execution_timeout=timeout,
            )  # fmt: skip
        except PapermillExecutionError as error:
            where, why = _cell(error.source, error.cell_index), error.evalue.partition("\n")[0]
            raise ReproError(f"{notebook.name}, {where}: {error.ename}: {why}") from error
        except (CellTimeoutError, DeadKernelError) as error:
            reason = f"took over {timeout} s" if isinstance(error, CellTimeoutError) else "the kernel died"
            raise ReproError(f"{notebook.name}, {_unfinished(output)}: {reason}") from error
        return nbformat.writes(_steady(nbformat.read(output, as_version=4)))


@contextmanager
def kernelspec(folder: Path) -> Iterator[None]:
    """A kernel named KERNEL that is this very Python, whatever is or is not on PATH or installed for the user."""
    spec = folder / "kernels" / KERNEL
    spec.mkdir(parents=True)
    # No history file; no warning at every start that the loopback socket, whose messages are signed, is not encrypted.
    options = ["--HistoryManager.enabled=False", "--log-level=ERROR"]
    argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}", *options]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def _cell(source: str, index: int) -> str:
    first = source.strip().partition("\n")[0]
    return f"cell {index + 1} ({first[:60]})"


def _unfinished(output: Path) -> str:
    """The cell that papermill was in when it stopped: the last that is not pending in the notebook it saves."""
    cells = nbformat.read(output, as_version=4).cells
    begun = [
        (cell.source, index)
        for index, cell in enumerate(cells)
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("status", "pending") != "pending"
    ]
    return _cell(*begun[-1]) if begun else "before its first cell"


def _steady(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times, durations and paths of this machine: the same results give the same file."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    return notebook
