"""What every script does with its findings: a claim has a bound, a result names its hardware, an error is one line."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError
from attention_rhythm.files import shown, write_json
from attention_rhythm.provenance import environment

SENSES = {"<=": operator.le, ">=": operator.ge, "within": lambda value, bound: bound[0] <= value <= bound[1]}


def make_claim(name: str, value: float | None, sense: str, bound: Any, **about: Any) -> dict[str, Any]:
    """`held` says whether `value` is on the side of `bound` that is claimed; None where either is missing."""
    held = None if value is None or bound is None else SENSES[sense](value, bound)
    return {"claim": name, **about, "value": value, "sense": sense, "bound": bound, "held": held}


def write(output: Path, record: Mapping[str, Any]) -> None:
    """`record` and the hardware and versions it was made with."""
    write_json(output, {**record, "environment": environment()})


def report(output: Path, claims: list[dict[str, Any]]) -> None:
    """Print the claims that have a bound, and where the rest is."""
    about = ("claim", "model", "dtype", "length")
    for claim in claims:
        if claim.get("held") is not None:
            name = " ".join(str(claim[key]) for key in about if key in claim)
            state = "held" if claim["held"] else "NOT held"
            print(f"{name}: {claim['value']:.3g} {claim['sense']} {claim['bound']}: {state}")
    print(f"written to {shown(output)}")


def run(main: Callable[[], int]) -> None:
    """Exit with the status of `main`; a ReproError is one line."""
    try:
        sys.exit(main())
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
