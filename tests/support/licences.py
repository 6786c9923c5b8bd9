"""The licences of the pinned packages: `python -m tests.support.licences` renews the table in docs/dependencies.md.

They come from the metadata of what is installed. A package that this Python does not need (some are for 3.12 alone)
keeps the licence that the table has.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata

from pipeline.manifest import ROOT

DOCUMENT = ROOT / "docs" / "dependencies.md"
REQUIREMENTS = ("requirements.txt", "requirements-model.txt")
ROW = re.compile(r"^\| ([\w-]+) \| (\d[\w.]*) \| (.+?) \|$", re.MULTILINE)
UNKNOWN = "not known"
IN_TEXT_ONLY = {"zss": "BSD-3-Clause"}  # whose metadata has a text and no name


def pinned() -> dict[str, str]:
    """Version by name of every package that ./reproduce.sh installs."""
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in REQUIREMENTS)
    return dict(sorted(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE)))


def licence(package: str, version: str) -> str | None:
    """As its metadata has it, an SPDX expression where there is one; None if that version is not installed."""
    try:
        facts = metadata(package)
    except PackageNotFoundError:
        return None
    if facts["Version"].partition("+")[0] != version:
        return None
    if expression := facts.get("License-Expression"):
        return expression
    names = [c.rpartition(" :: ")[2] for c in facts.get_all("Classifier") or [] if c.startswith("License :: ")]
    text = facts.get("License") or ""
    if text not in ("", "UNKNOWN") and len(text) < 60:  # some put the whole text there
        return text
    return ", ".join(names) or IN_TEXT_ONLY.get(package, UNKNOWN)


def renewed(text: str) -> str:
    """The document with its table made anew."""
    before = {(name, version): kept for name, version, kept in ROW.findall(text)}
    rows = [
        f"| {name} | {version} | {licence(name, version) or before.get((name, version), UNKNOWN)} |"
        for name, version in pinned().items()
    ]
    head, _, _ = text.partition("| Package |")
    return head + "\n".join(["| Package | Version | Licence |", "|:--|:--|:--|", *rows]) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
