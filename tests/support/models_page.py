"""Makes the tables of docs/models.md from every model of the zoo.

    python -m tests.support.models_page

It takes some minutes. A test holds each row to what the library does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
import transformers

from attention_rhythm.files import write_text
from tests.support import zoo
from tests.support.generation import generation_verdict
from tests.support.verdicts import Verdicts, verdicts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
WHOLE = "right, of the whole sequence: later tokens change what earlier ones predict"
HEAD = ("Type", "Signals", "Implicit maps", "Log-probabilities", "Generation")
BLOCK = re.compile(r"(<!-- models -->\n).*?(<!-- end -->)", re.DOTALL)


def row(name: str, found: Verdicts, generation: str) -> tuple[str, ...]:
    """The cells of a model, in the order of `HEAD`."""
    if "wrong: " in str(found):
        raise ValueError(f"{name} is wrong: {found}")
    implicit = {"none": "—"}.get(found.implicit, found.implicit)
    made = generation if generation.startswith("refused") else f"right: {generation}"
    logprobs = found.logprobs if found.causal or found.logprobs != "right" else WHOLE
    return name, *(cell(text) for text in (found.streaming, implicit, logprobs, made))


def cell(text: str) -> str:
    """A verdict as it stands in a table: on one line, without numbers that rounding decides."""
    text = re.sub(r" \(\d[^)]* of the spread [^)]*\)", "", text)
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def line(cells: tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def rows(text: str) -> dict[str, tuple[str, ...]]:
    """The rows of a page by their names."""
    (block,) = [match.group(0) for match in BLOCK.finditer(text)]
    lines = [found.strip("| ").split(" | ") for found in block.splitlines() if found.startswith("| ")]
    return {cells[0]: tuple(cells) for cells in lines if cells[0] != HEAD[0]}


def tables(made: dict[str, tuple[str, ...]]) -> str:
    """Types, then settings of types that matter."""
    head = f"{line(HEAD)}\n|{'---|' * len(HEAD)}"
    types, others = ({n: made[n] for n in sorted(made) if ("/" in n) == setting} for setting in (False, True))
    right = [sum(cells[column].startswith("right") for cells in types.values()) for column in range(len(HEAD))]
    versions = f"transformers {transformers.__version__} and torch {torch.__version__.partition('+')[0]}"
    parts = [
        f"With {versions}, of {len(types)} types: signals right of {right[1]}, implicit maps of {right[2]},"
        f" log-probabilities of {right[3]}, generation of {right[4]}.",
        "\n".join([head, *map(line, types.values())]),
        "Other settings of some types; `TYPE/SETTING`:",
        "\n".join([head, *map(line, others.values())]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Fill the page."""
    torch.set_num_threads(1)
    made = {}
    for name in [*zoo.names(), *zoo.VARIANTS]:
        made[name] = row(name, verdicts(zoo.build(name)), generation_verdict(zoo.build(name)))
        print(line(made[name]), flush=True)
    text = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, BLOCK.sub(lambda match: match.group(1) + tables(made) + match.group(2), text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
