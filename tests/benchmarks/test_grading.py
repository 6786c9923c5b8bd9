"""The comparison of graders at a small size: what it draws, counts and asks, and the table made from it."""

import pytest

from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_json
from benchmarks import graders, grading
from benchmarks.answer_styles import STYLE_GROUPS, WRONG_GROUPS, boxed
from benchmarks.worker import Worker
from pipeline import pages

PAIRS = [("5", boxed("5")), ("5", boxed("6")), ("5", r"<think>\boxed{5}")]


def test_no_style_counts_more_than_each():
    golds = [str(number) for number in range(50)]
    drawn = grading.responses(golds, STYLE_GROUPS, each=7)
    assert [len(drawn["any answer"]["boxed"]), len(drawn["fractions"][r"\cfrac"])] == [7, 0]
    assert drawn == grading.responses(golds, STYLE_GROUPS, each=7)  # the same for every grader


def test_gold_answers_are_given_without_dollars():
    assert grading.responses(["$5$"], STYLE_GROUPS, each=1)["any answer"]["boxed"] == [("5", boxed("$5$"))]


def test_verdicts_are_counted_by_style():
    def worker(pairs):
        return {"verdicts": [gold == "5" for gold, _ in pairs], "seconds": 0.5}

    pairs = {"numbers": {"a": [("5", ""), ("6", ""), ("7", "")], "b": [("5", "")]}}
    counts, seconds = grading.counted(worker, pairs, False)
    assert counts == {"numbers": {"a": [2, 3], "b": [0, 1]}} and seconds == 1.0
    assert grading.total(counts) == (2, 4) and grading.total(counts, without=["a"]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "paid"),
    [("this grader", [True, False, False]), ("math-verify", [True, False, True])],  # which reads thoughts
)
def test_a_grader_is_served(name, paid):
    with Worker(name, "benchmarks.graders", [name], 1) as worker:
        answer = worker(PAIRS)
        assert worker.about.startswith("math-verify 0.")
    assert answer["verdicts"] == paid and answer["seconds"] > 0


def test_the_grader_of_another_checkout_is_served(tmp_path):
    files = {
        "attention_rhythm/__init__.py": "",
        "attention_rhythm/errors.py": "class ReproError(Exception): ...",
        "attention_rhythm/tasks/__init__.py": "",
        "attention_rhythm/tasks/grading.py": "class Grade: correct = 'old'\ngrade_math = lambda gold, response: Grade",
        "pipeline/__init__.py": "",
        "pipeline/manifest.py": "ROOT = None",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with Worker("before", "benchmarks.graders", ["this grader", "--checkout", str(tmp_path)], 1) as worker:
        assert worker(PAIRS)["verdicts"] == ["old", "old", "old"]


def test_a_package_that_is_not_installed_ends_the_worker():
    with pytest.raises(ReproError, match="ended with status"):
        Worker("verl", "benchmarks.graders", ["verl math_dapo"], 1)


def test_every_grader_is_named_by_its_package():
    """main() finds the Python of a grader by the first word of its name."""
    assert {name.split()[0] for name in graders.GRADERS} == {"this", "math-verify", "verl", "TRL"}


def test_the_table_leaves_out_documented_styles_and_says_what_was_not_run(tmp_path):
    own = {
        "about": "math-verify 0.9.0",
        "ms": 1.0,
        "refused": {"numbers": {"a": [1, 4], "b": [3, 4]}},
        "paid": {"two answers": {"c": [1, 8]}},
    }
    record = {"settings": {"documented": ["b"], "golds": 9}, "graders": {"TRL": "not run", "this grader": own}}
    write_json(tmp_path / "benchmarks" / "results" / "grading.json", record)
    table = pages.graders(tmp_path)
    header, _, version, *rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[:9]]
    assert header == ["this grader", "TRL"] and version == ["math-verify 0.9.0", "not run"]
    assert [row[0] for row in rows if row] == ["25.0", "25.0", "12.5", "12.5", "1"]
    assert "8 right and 8 wrong responses to 9 gold answers" in table
    assert "- b: 3 of 4 refused by this grader." in table


def test_wrong_forms_are_in_groups_that_are_not_empty():
    assert all(WRONG_GROUPS.values()) and all(STYLE_GROUPS.values())
