"""What graders refuse that is right and pay that is wrong: this project's, math-verify, verl's and TRL's.

    .venv/bin/python -m benchmarks.grading [--verl-python PYTHON] [--trl-python PYTHON] [--before CHECKOUT]

Gold answers of the mathematics benchmarks (DATA_DIR, or the hub) are rewritten by benchmarks/answer_styles.py: in
styles that are right, and in forms that are wrong; the answer of another problem is one more. Of each style and form at
most --each pairs are drawn (of other problems' answers ten times as many), the same for all graders.

A PYTHON is that of an environment with verl (requirements-verl.txt), with TRL (benchmarks/requirements-trl.txt);
without it the graders of that package are "not run". Time is that of one grade.

This grader also grades the sources' solutions, as they stand, and with the gold answer stated below those that state
none in a box or after ####. CHECKOUT is a folder with an earlier version of this repository: both grade the same boxed
gold answers, and the same answers of other problems, in turn.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from attention_rhythm.tasks.answers import last_boxed
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import load_problems
from benchmarks.answer_styles import DOCUMENTED, STYLE_GROUPS, WRONG_GROUPS, bare, boxed, of_other_problems
from benchmarks.graders import GRADERS
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "grading.json"
TASKS = ("math500", "olympiadbench", "minerva", "aime24", "aime25", "amc23", "gsm8k")
WITH_SOLUTIONS = ("gsm8k", "math500", "olympiadbench", "minerva", "aime24")
OTHERS = "another problem's answer"
SPEED = 0.8  # of before, which is claimed
ROUNDS = 10  # of the comparison with before

Pair = tuple[str, str]  # gold answer, response
Pairs = dict[str, dict[str, list[Pair]]]  # group -> style or form -> pairs


def gold_answers() -> list[str]:
    """Of all the tasks; each answer once, since GSM8K repeats small numbers."""
    return list(dict.fromkeys(problem.answer for task in TASKS for problem in load_problems(task)))


def responses(golds: list[str], groups: dict[str, dict[str, Callable]], each: int) -> Pairs:
    """At most `each` pairs of every style or form, drawn by its name; gold answers without dollars."""
    return {
        group: {
            name: drawn(((bare(gold), style(gold)) for gold in golds), each, name) for name, style in styles.items()
        }
        for group, styles in groups.items()
    }


def drawn(pairs: Iterable[tuple[str, str | None]], each: int, seed: str) -> list[Pair]:
    """At most `each` of the pairs that have a response."""
    there = [(gold, response) for gold, response in pairs if response is not None]
    return there if len(there) <= each else random.Random(seed).sample(there, each)


def counted(worker: Worker, pairs: Pairs, found: bool) -> tuple[dict[str, Any], float]:
    """How many pairs of each style have this verdict: {group: {style: [found, all]}}; and the seconds of all."""
    counts: dict[str, Any] = {}
    seconds = 0.0
    for group, styles in pairs.items():
        counts[group] = {}
        for name, own in styles.items():
            answer = worker(own)
            seconds += answer["seconds"]
            counts[group][name] = [answer["verdicts"].count(found), len(own)]
    return counts, seconds


def judged(name: str, python: str | Path, right: Pairs, wrong: Pairs) -> dict[str, Any]:
    """What one grader refuses that is right, and pays that is wrong."""
    with Worker(name, "benchmarks.graders", [name], 1, python) as worker:
        refused, seconds = counted(worker, right, False)
        paid, more = counted(worker, wrong, True)
        size = sum(len(own) for pairs in (right, wrong) for styles in pairs.values() for own in styles.values())
        result = {"about": worker.about, "refused": refused, "paid": paid, "ms": 1000 * (seconds + more) / size}
    line = [
        f"{total(counts)[0]} of {total(counts)[1]} {verb}" for verb, counts in (("refused", refused), ("paid", paid))
    ]
    print(f"{name}: {', '.join(line)}, {result['ms']:.2f} ms a grade", flush=True)
    return result


def total(counts: dict[str, dict[str, list[int]]], without: Iterable[str] = ()) -> tuple[int, int]:
    """(found, all) over groups and styles."""
    rows = [row for styles in counts.values() for name, row in styles.items() if name not in without]
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def speed(golds: list[str], before: Path) -> dict[str, list[float]]:
    """Seconds of each round, now and before, over the boxed gold answers and over those of other problems."""
    pairs = [(gold, boxed(gold)) for gold in golds] + of_other_problems(golds)
    random.Random(0).shuffle(pairs)
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    with (
        Worker("now", "benchmarks.graders", ["this grader"], 1) as now,
        Worker("before", "benchmarks.graders", ["this grader", "--checkout", str(before)], 1) as then,
    ):
        for number in range(ROUNDS):
            for worker in (now, then) if number % 2 == 0 else (then, now):
                seconds[worker.name].append(worker(pairs[number::ROUNDS])["seconds"])
    return seconds


def solutions() -> dict[str, dict[str, int]]:
    """How many of the sources' solutions are paid: as they stand, and with the gold answer stated below."""
    found = {}
    for task in WITH_SOLUTIONS:
        problems = load_problems(task)
        texts = [problem.metadata["solution"] for problem in problems]
        stated = [
            text if last_boxed(text) or "####" in text else f"{text}\n\nThe answer is $\\boxed{{{problem.answer}}}$."
            for problem, text in zip(problems, texts, strict=True)
        ]
        found[task] = {"problems": len(problems)} | {
            name: sum(grade(problem, text).correct for problem, text in zip(problems, own, strict=True))
            for name, own in (("stated", stated), ("as_it_stands", texts))
        }
        print(f"solutions of {task}: {found[task]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grading", description=__doc__.split("\n")[0])
    parser.add_argument("--verl-python", type=Path, metavar="PYTHON", help="without it, verl's graders are not run")
    parser.add_argument("--trl-python", type=Path, metavar="PYTHON", help="without it, TRL's grader is not run")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version, to compare the speed with")
    parser.add_argument("--each", type=int, default=40, metavar="N", help="pairs of each style and form (default: 40)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    golds = gold_answers()
    right = responses(golds, STYLE_GROUPS, options.each)
    wrong = responses(golds, WRONG_GROUPS, options.each)
    others = ((bare(gold), response) for gold, response in of_other_problems(golds))
    wrong[OTHERS] = {OTHERS: drawn(others, 10 * options.each, OTHERS)}
    pythons = {"verl": options.verl_python, "TRL": options.trl_python}
    graders: dict[str, Any] = {}
    for name in GRADERS:
        python = pythons.get(name.split()[0], sys.executable)
        graders[name] = judged(name, python, right, wrong) if python else "not run"

    own = graders["this grader"]
    (refused, of_right), (paid, of_wrong) = total(own["refused"], DOCUMENTED), total(own["paid"])
    claims = [
        make_claim("right_refused", refused / of_right, "<=", 0.005),
        make_claim("wrong_paid", paid / of_wrong, "<=", 0.0),
    ]
    record: dict[str, Any] = {
        "settings": {"tasks": TASKS, "golds": len(golds), "each": options.each, "documented": list(DOCUMENTED)},
        "graders": graders,
        "solutions": solutions(),
    }
    if options.before:
        seconds = speed(golds, options.before)
        ratio = statistics.median(b / n for b, n in zip(seconds["before"], seconds["now"], strict=True))
        record["speed"] = {"seconds": seconds, "grades": len(golds) + len(of_other_problems(golds))}
        claims.append(make_claim("speed_of_before", ratio, ">=", SPEED))
    write(options.output, {**record, "claims": claims})
    report(options.output, claims)
    return 0


if __name__ == "__main__":
    run(main)
