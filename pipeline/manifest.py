"""manifest.json: what made each result file, and whether it still would be made the same way.

A stage's fingerprint is the hash of all that decides its output: its name, settings, seed, the model, its input files,
and the code it runs. The code is the stage's module and every module of this repository that it imports, less comments
and docstrings, so that a better explanation makes no result stale.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from attention_rhythm.files import read_json, sha256_of, sha256_path, write_json

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("attention_rhythm", "evaluation", "analysis", "training", "figures", "pipeline")


@dataclass
class Manifest:
    """The records of a results folder, by stage."""

    folder: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
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

    def problems(self, stage: str, fingerprint: str) -> tuple[str | None, list[str]]:
        """Why the stage's results are stale (None: they are not), and which of its files are missing.

        A missing file alone is no staleness: an intermediate that was thrown away is made again only if it is needed.
        """
        entry = self.stages.get(stage)
        if entry is None:
            return "never ran", []
        missing = [name for name in entry["outputs"] if not (self.folder / name).exists()]
        if entry["fingerprint"] != fingerprint:
            return "settings, inputs or code changed", missing
        changed = [
            name
            for name, digest in entry["outputs"].items()
            if name not in missing and sha256_path(self.folder / name) != digest
        ]
        return (f"{', '.join(changed)} changed on disk" if changed else None), missing


@cache
def source_sha256(module: str) -> str:
    """Hash of the code of a module of this repository and of those it imports, directly or not."""
    code: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in code and (file := _source_file(name)):
            tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
            waiting += _imports(tree, name if file.name == "__init__.py" else name.rpartition(".")[0])
            waiting += [name.rpartition(".")[0]]  # importing a.b runs a/__init__.py
            code[name] = _without_docstrings(tree)
    return sha256_of(code)


# --------------------------------------------------------------------------------------------- private


def _source_file(module: str) -> Path | None:
    if module.partition(".")[0] not in _PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _imports(tree: ast.AST, package: str) -> list[str]:
    """Modules that a source names in import statements, anywhere in it; `from a import b` may name a.b."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _without_docstrings(tree: ast.Module) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
