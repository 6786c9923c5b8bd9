r"""The graders that benchmarks/grading.py compares, each served in the environment that has it.

    PYTHON -m benchmarks.graders GRADER [--checkout FOLDER]

A request is a list of (gold answer, response); the answer is whether each is paid, and the seconds of all. Graders are
called as their packages document it: math-verify and TRL are given the gold answer in \boxed{}, as in TRL's tests.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

Grader = Callable[[str, str], bool]


def ours() -> Grader:
    """This project's, or that of another checkout."""
    from attention_rhythm.tasks.grading import grade_math

    return lambda gold, response: grade_math(gold, response).correct


def math_verify() -> Grader:
    """math-verify with its defaults, as its README calls it."""
    from math_verify import parse, verify

    return lambda gold, response: verify(parse(rf"\boxed{{{gold}}}"), parse(response))


def verl_math_reward() -> Grader:
    """verl's for MATH: the last box, compared as text after a normalisation."""
    from verl.utils.reward_score.math_reward import compute_score

    return lambda gold, response: compute_score(response, gold) == 1.0


def verl_math_dapo() -> Grader:
    """verl's for DAPO and AIME: what follows "Answer:", else a box, compared as text."""
    from verl.utils.reward_score.math_dapo import compute_score

    return lambda gold, response: bool(compute_score(response, gold)["acc"])


def verl_math_verify() -> Grader:
    """verl's use of math-verify, in its pool of processes."""
    from verl.utils.reward_score.math_verify import compute_score

    return lambda gold, response: compute_score(response, gold) == 1.0


def verl_prime_math() -> Grader:
    """verl's for Numina: PRIME's, by sympy."""
    from verl.utils.reward_score.prime_math import compute_score

    return lambda gold, response: bool(compute_score(response, gold)[0])


def trl() -> Grader:
    """TRL's accuracy_reward; a gold answer that it cannot read is skipped there, and not paid here."""
    from trl.rewards import accuracy_reward

    return lambda gold, response: accuracy_reward([[{"content": response}]], [rf"\boxed{{{gold}}}"])[0] == 1.0


GRADERS: dict[str, tuple[Callable[[], Grader], str]] = {  # name -> the grader, the package whose version is noted
    "this grader": (ours, "math-verify"),
    "math-verify": (math_verify, "math-verify"),
    "verl math_reward": (verl_math_reward, "verl"),
    "verl math_dapo": (verl_math_dapo, "verl"),
    "verl math_verify": (verl_math_verify, "verl"),
    "verl prime_math": (verl_prime_math, "verl"),
    "TRL accuracy_reward": (trl, "trl"),
}


def prepare(name: str) -> tuple[Callable[[Any], dict[str, Any]], str]:
    """The function of a request, and the version of the package."""
    make, package = GRADERS[name]
    logging.disable(logging.CRITICAL)
    grader = make()
    grader("1", r"\boxed{1}")  # starts processes, builds parsers

    def answer(pairs: list[tuple[str, str]]) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()):  # verl's graders print what they cannot read
            started = time.perf_counter()
            verdicts = [grader(gold, response) for gold, response in pairs]
            return {"verdicts": verdicts, "seconds": time.perf_counter() - started}

    return answer, f"{package} {importlib.metadata.version(package)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graders", description=__doc__.split("\n")[0])
    parser.add_argument("grader", choices=list(GRADERS))
    parser.add_argument("--checkout", help="a folder whose attention_rhythm is taken")
    options = parser.parse_args()
    if options.checkout:
        sys.path.insert(0, options.checkout)  # before anything of the library is imported

    from benchmarks.worker import serve

    serve(lambda: prepare(options.grader))


if __name__ == "__main__":
    main()
