"""What README and the repository promise about themselves."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.grpo import group_advantages
from pipeline import pages
from pipeline.manifest import ROOMS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["check", "."], ["format", "--check", "."]], ids=" ".join)
def test_ruff_is_content(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """What git holds, in a folder: a run on another machine may have changed results/ since, or deleted them."""
    folder = tmp_path_factory.mktemp("held")
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("page", pages.PAGES)
def test_the_tables_in_a_page_are_the_committed_ones(held, page):
    text = (held / page).read_text(encoding="utf-8")
    assert pages.filled(text, held) == text, "run: python -m pipeline.pages"


def test_every_function_test_and_file_that_the_pages_name_is_there(held):
    for name in re.findall(r"`((?:attention_rhythm|analysis|evaluation|training|figures|pipeline)\.[\w.]+)`", METHOD):
        module, _, attribute = name.rpartition(".")
        assert is_module(name) or hasattr(importlib.import_module(module), attribute), name
    for path in re.findall(
        r"(?:`|\]\()((?:tests|docs|profiles|benchmarks|results/[a-z0-9])[\w./-]*\w)", README + METHOD
    ):
        assert (held / path).exists(), path


def test_the_readme_can_be_read_at_once():
    assert len(README.splitlines()) <= 200


def test_every_equation_of_section_4_is_mapped():
    for number in (7, 8, 9, 10, 11):
        assert re.search(rf"^\| .*Eq\. {number}\b.*tests/(signals|analysis)/test_", METHOD, re.MULTILINE), number


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(path):
    """The modules that a file imports, anywhere in it, with those that a `from` may name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_arrow_goes_up():
    for height, room in enumerate(ROOMS):
        for path in (ROOT / room).rglob("*.py"):
            rooms = {name.partition(".")[0] for name in imported(path)}
            assert not rooms & {*ROOMS[height + 1 :], "tests", "benchmarks"}, path
            if room == "figures":
                assert not rooms & {"torch", "transformers", "analysis", "training"}, path


def test_figures_read_results_and_nothing_else():
    library = tuple(f"attention_rhythm.{name}" for name in ("errors", "files", "statistics"))
    for path in (ROOT / "figures").glob("*.py"):
        ours = {name for name in imported(path) if name.startswith(("attention_rhythm", "evaluation"))}
        assert all(name.startswith((*library, "evaluation.settings")) for name in ours), path


def test_the_mathematics_touches_no_files():
    library = ROOT / "attention_rhythm"
    seen, waiting = (
        set(),
        [*(library / "signals").glob("*.py"), *(library / f"{n}.py" for n in ("credit", "grpo", "statistics"))],
    )
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        environment = {"os"} if path == library / "__init__.py" else set()  # it sets a variable of OpenMP
        assert not ({"pathlib", "os", "io", "shutil", "tempfile", "json"} - environment) & imported(path), path
        assert not re.search(r"\bopen\(|\.read_text|\.write_", text), path
        for name in imported(path):
            parts = name.split(".") if name.partition(".")[0] in ROOMS else []
            packages = [ROOT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
            waiting += [file for file in (*packages, ROOT / f"{'/'.join(parts)}.py") if file.is_file()]
    assert library / "errors.py" in seen and library / "__init__.py" in seen
    assert library / "files.py" not in seen and library / "models.py" not in seen


@pytest.mark.parametrize(
    ("engine", "home"),
    [("vllm", "attention_rhythm/generation/vllm.py"), ("verl", "attention_rhythm/integrations/verl/"),
     ("ray", "attention_rhythm/integrations/verl/"), ("megatron", "training/actors/megatron"),
     ("tyro", ("evaluation/run.py", "training/run.py"))],
)  # fmt: skip
def test_an_engine_is_imported_in_one_place(engine, home):
    users = [p.relative_to(ROOT).as_posix() for room in ROOMS for p in (ROOT / room).rglob("*.py")
             if engine in {name.partition(".")[0] for name in imported(p)}]  # fmt: skip
    assert users and all(user.startswith(home) for user in users)


def test_trl_is_imported_in_one_place_at_most():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    users = [path for path in files if "trl" in {name.partition(".")[0] for name in imported(path)}]
    assert len(users) <= 1, users


def test_rooms_name_the_module_they_need():
    """Not a package that imports it when it is asked for: the manifest follows import statements."""
    packages = {f"attention_rhythm{name}" for name in ("", ".signals", ".tasks", ".generation")}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module in packages and path.name != "__init__.py":
                    folder = ROOT.joinpath(*node.module.split("."))
                    for alias in node.names:
                        there = (folder / f"{alias.name}.py").exists() or (folder / alias.name).is_dir()
                        assert there, f"{path}: {node.module}.{alias.name}"


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        tests = {name for name in imported(path) if name.startswith("tests.")}
        assert all(name.startswith("tests.support") for name in tests), path
        assert not any(re.match(r"(test_\w+|conftest)\b", name) for name in imported(path)), path  # relative
        by_path = r"spec_from_file_location|SourceFileLoader|run_path"
        assert not re.search(by_path, path.read_text()) or path.name == "test_repository.py", path
    assert not list((ROOT / "tests" / "support").rglob("test_*"))


def test_every_public_function_says_what_it_does():
    bare = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            # a method of a class that inherits is documented where it was first defined
            own = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_" and not n.bases)
            scopes = [tree, *own]
            for node in (node for scope in scopes for node in scope.body):
                named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_"
                if named and not ast.get_docstring(node):
                    bare.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not bare, "\n".join(bare)


def test_every_error_that_the_library_raises_is_in_a_docstring():
    """Of the function that raises it, or of its module, class or caller: somewhere a reader of the file meets it."""
    unsaid = set()
    for path in (ROOT / "attention_rhythm").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        said = " ".join(filter(None, (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, documented))))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                unsaid |= {f"{path.relative_to(ROOT)}: {node.exc.func.id}"} if node.exc.func.id not in said else set()
    assert not unsaid


def test_every_array_that_the_library_returns_has_a_shape():
    shapeless = set()
    for path in (ROOT / "attention_rhythm").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and node.returns is not None:
                bare = re.search(r"(?<![\w\[])(torch\.)?Tensor\b(?!, )", ast.unparse(node.returns))
                if bare and not re.search(r"\(([A-Z]|\w+,)", ast.get_docstring(node) or ""):
                    shapeless.add(f"{path.relative_to(ROOT)}: {node.name}")
    assert not shapeless


def test_nothing_of_this_machine_is_in_the_repository(held):
    kinds = {".py", ".md", ".toml", ".sh", ".ipynb", ".yml", ".json", ".txt"}
    for path in (path for path in held.rglob("*") if path.suffix in kinds):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|work|Users)/\w", text), path


def test_notebooks_are_stripped(held):
    done = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", *map(str, held.glob("notebooks/*.ipynb"))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


UNCHECKED = {
    "attention_rhythm.integrations.verl.engine",  # imported where verl is, by processes of its own
    "attention_rhythm.signals.streaming_triton",  # Triton compiles a function's own source, not a checked one
}


def test_every_module_that_gives_shapes_is_checked():
    for path in (ROOT / "attention_rhythm").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "jaxtyping" in imported(path) and module not in UNCHECKED:
            assert type(importlib.util.find_spec(module).loader).__module__.startswith("jaxtyping"), module


def test_shapes_are_checked_in_the_tests():
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TypeCheckError, match="entropy"):
        credit_weights(mask, CreditConfig("entropy"), entropy=torch.ones(2, 4))
    with pytest.raises(TypeCheckError, match="rewards"):
        group_advantages(torch.ones(2, 2), torch.zeros(2, dtype=torch.long))
