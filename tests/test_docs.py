"""What pages and docstrings promise: numbers are results, links lead somewhere; shapes, units and errors are said."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from pipeline.pages import BLOCK

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LIBRARY = ROOT / "attention_rhythm"

# ---------------------------------------------------------------------------------------------- pages

NUMBER = r"-?\d+(?:\.\d+)+|-?\d+(?=%| points\b| percent\b)"


def prose(text: str) -> str:
    """A page without generated blocks, code, and the targets of links."""
    text = BLOCK.sub("", text)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


@pytest.fixture(scope="module")
def facts() -> set[str]:
    """Every number of the result tables, of the paper as it is quoted, of the settings, and of what is pinned."""
    files = [
        *ROOT.glob("results/*/tables/*.md"),
        *ROOT.glob("figures/*.yaml"),
        *ROOT.glob("training/configs/*.toml"),
        *ROOT.glob("requirements*.txt"),
        *ROOT.glob("benchmarks/requirements*.txt"),
        ROOT / "benchmarks" / "LOG.md",
        ROOT / "docs" / "cluster.md",
        ROOT / "CITATION.cff",
        ROOT / "pyproject.toml",
    ]
    texts = [path.read_text(encoding="utf-8") for path in files]
    texts += [match.group(0) for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return set(re.findall(r"-?\d+(?:\.\d+)*", "\n".join(texts)))


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md", "docs/costs.md", "docs/method.md"])
def test_a_number_in_prose_is_one_of_the_results(page, facts):
    found = re.findall(rf"(?<![\w.])(?:{NUMBER})(?!\w)", prose((ROOT / page).read_text(encoding="utf-8")))
    assert [number for number in found if number not in facts] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_difference_is_not_called_less(page):
    """ "less GRPO" reads as "fewer": it is "minus", or "difference from"."""
    text = prose(page.read_text(encoding="utf-8"))
    assert not re.search(r"\bless (GRPO|random|low|coupled|global|local)\b", text, re.IGNORECASE)


def commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """(page, module, arguments) of each `... -m evaluation.run` and `training.run` on a page; `...` stands for more."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, arguments in re.findall(r"-m ((?:evaluation|training)\.run)\b([^`\n]*)", text):
            words = tuple(word for word in shlex.split(arguments, comments=True) if word != "...")
            found += [(page.name, name, words)] if words else []
    return found


@pytest.mark.parametrize(("page", "module", "arguments"), commands(), ids=lambda value: str(value)[:40])
def test_a_command_on_a_page_is_understood_with_its_values(page, module, arguments):
    """Read by the command line's own dataclass, in whose place `...` leaves what it asks for besides."""
    needed = {"--model": "FOLDER", "--out": "DIR", **({"--tasks": "gsm8k"} if module == "evaluation.run" else {})}
    if "--generated" in arguments:
        needed.pop("--tasks", None)
    rest = [word for option, value in needed.items() if option not in arguments for word in (option, value)]
    # names that page's diff would add
    known = ["hf" if word == "plain" else "uniform" if word == "preplan" else word for word in (*arguments, *rest)]
    tyro.cli(importlib.import_module(module).Options, args=known)


# ----------------------------------------------------------------------------------------- docstrings

Function = ast.FunctionDef | ast.AsyncFunctionDef
UNIT = re.compile(
    r"\b(nats|tokens|distance|seconds|share|weights?|probabilit\w+|standard deviations|factor|gamma|unit)\b"
)


def public(path: Path) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Functions, classes and methods of a module whose names, and whose class's, begin with no underscore."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)

    def below(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, ast.ClassDef | Function]]:
        for child in node.body:
            if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
                yield f"{name}.{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from below(child, f"{name}.{child.name}")

    yield from below(ast.parse(path.read_text(encoding="utf-8")), module)


EVERYTHING = [item for path in sorted(LIBRARY.rglob("*.py")) for item in public(path)]
FUNCTIONS = [(name, node) for name, node in EVERYTHING if isinstance(node, Function)]


def raised(node: Function) -> set[str]:
    """The error classes that a function's own body raises by name."""
    own = [statement for statement in node.body if not isinstance(statement, ast.ClassDef | Function)]
    errors = [item.exc for statement in own for item in ast.walk(statement) if isinstance(item, ast.Raise) and item.exc]
    names = {ast.unparse(error.func if isinstance(error, ast.Call) else error).rpartition(".")[2] for error in errors}
    return {name for name in names if re.fullmatch(r"[A-Z]\w+", name)}


def test_a_docstring_names_the_errors_that_its_function_raises():
    silent = {
        name: missing
        for name, node in FUNCTIONS
        if (missing := {error for error in raised(node) if error not in (ast.get_docstring(node) or "")})
    }
    assert silent == {}


def test_a_function_that_returns_a_tensor_of_numbers_says_their_unit():
    silent = [
        name
        for name, node in FUNCTIONS
        if node.returns and "Float[" in ast.unparse(node.returns) and not UNIT.search(ast.get_docstring(node) or "")
    ]
    assert silent == []


def test_an_argument_that_is_a_tensor_has_a_shape():
    """By jaxtyping in its annotation, or in the docstring: (B, N), (rows,)."""
    silent = [
        f"{name}: {argument.arg}"
        for name, node in FUNCTIONS
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.annotation
        and re.fullmatch(r"(torch\.Tensor|Tensor|np\.ndarray|Array)( \| None)?", ast.unparse(argument.annotation))
        and not re.search(r"\(\w+(, \w+)*,?\)", ast.get_docstring(node) or "")
    ]
    assert silent == []
