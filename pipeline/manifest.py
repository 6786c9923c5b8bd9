"""manifest.json: what made each result file, and whether it still would be made the same way.

`made_of` holds what can change a stage's numbers and nothing else: its settings, the seed, the model, its input and
data files, and the code it runs, file by file, less comments and docstrings. So a better explanation makes no result
stale, and what does can be named.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from attention_rhythm.files import read_json, sha256_of, sha256_path, write_json

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("attention_rhythm", "evaluation", "analysis", "training", "figures", "pipeline")
# What carries numbers without making them: packages' names, files, errors, versions, and settings, whose values are in
# `made_of` anyway.
CARRIERS = {
    "attention_rhythm",
    "attention_rhythm.commands",
    "attention_rhythm.errors",
    "attention_rhythm.files",
    "attention_rhythm.generation",
    "attention_rhythm.lazy",
    "attention_rhythm.provenance",
    "attention_rhythm.signals",
    "attention_rhythm.tasks",
    *(f"{room}.settings" for room in ROOMS),
}
# How a part of `made_of` is named to a person.
PARTS = {"settings": "setting", "inputs": "input", "data": "data file", "code": "code"}


@dataclass
class Manifest:
    """The records of a results folder, by stage."""

    folder: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest of a results folder; an empty one where there is none."""
        path = folder / "manifest.json"
        return cls(folder, read_json(path) if path.exists() else {})

    def record(self, stage: str, entry: dict[str, Any]) -> None:
        """Keep a stage's record, on disk at once."""
        self.stages[stage] = entry
        write_json(self.folder / "manifest.json", self.stages)

    def output_hash(self, name: str) -> str | None:
        """Hash of a result file or folder: of what is on disk, else what its stage recorded, else None."""
        if (self.folder / name).exists():
            return sha256_path(self.folder / name)
        return next((entry["outputs"][name] for entry in self.stages.values() if name in entry["outputs"]), None)

    def problems(self, stage: str, made_of: Mapping[str, Any]) -> tuple[str | None, list[str]]:
        """Why the stage's results are stale (None: they are not), and which of its files are missing.

        A missing file alone is no staleness: an intermediate that was thrown away is made again only if it is needed.
        """
        entry = self.stages.get(stage)
        if entry is None:
            return "never ran", []
        missing = [name for name in entry["outputs"] if not (self.folder / name).exists()]
        if "made_of" not in entry:
            return "recorded by an older version", missing
        if changes := differences(entry["made_of"], made_of):
            more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
            return f"{changes[0]}{more}", missing
        changed = [
            name
            for name, digest in entry["outputs"].items()
            if name not in missing and sha256_path(self.folder / name) != digest
        ]
        return (f"{', '.join(changed)} changed on disk" if changed else None), missing


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two `made_of`, in words: a setting with both values, a file by its name.

    A part that is None now is not known here (the data of a clone without DATA_DIR): what was recorded stands.
    """
    found = []
    for part in dict.fromkeys((*now, *recorded)):
        before, after = recorded.get(part), now.get(part)
        if part in now and after is None:
            continue
        if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
            found += [f"{part} changed"] if before != after else []
            continue
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) == after.get(name):
                continue
            if part == "settings":
                found.append(f"setting {name}: {before.get(name)!r} when it was made, now {after.get(name)!r}")
            else:
                what = "new" if name not in before else "gone" if name not in after else "changed"
                found.append(f"{PARTS[part]} {name} {what}")
    return found


@cache
def code_of(module: str) -> dict[str, str]:
    """For each file of this repository that a module runs, itself and what it imports: the hash of its code."""
    code: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or not (file := _source_file(name)):
            continue
        seen.add(name)
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        waiting += _imports(tree, name if file.name == "__init__.py" else name.rpartition(".")[0])
        waiting += [name.rpartition(".")[0]]  # importing a.b runs a/__init__.py
        if name not in CARRIERS and (text := _without_docstrings(tree)):
            code[file.relative_to(ROOT).as_posix()] = sha256_of(text)[:16]
    return code


# --------------------------------------------------------------------------------------------- private


def _source_file(module: str) -> Path | None:
    if module.partition(".")[0] not in ROOMS:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _imports(tree: ast.AST, package: str) -> list[str]:
    """Modules that a source names in import statements, anywhere in it; `from a import b` may name a.b.

    What is imported for type checks alone does not run.
    """
    names = []
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a source, less those under `if TYPE_CHECKING` and in a module's `__getattr__`."""
    for child in ast.iter_child_nodes(tree):
        typing_only = (
            isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        )
        lazy = isinstance(child, ast.FunctionDef) and child.name == "__getattr__" and isinstance(tree, ast.Module)
        if not (typing_only or lazy):
            yield child
            yield from _running(child)


def _without_docstrings(tree: ast.Module) -> str:
    """The code of a source; empty where it has none."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            rest = node.body[1:]
            node.body = rest if rest or isinstance(node, ast.Module) else [ast.Pass()]
    return ast.unparse(tree)
