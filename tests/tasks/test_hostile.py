"""Hostile strings: none takes more than two seconds to grade, none raises, and none is paid.

A string has a number that makes it (tests/support/hostile.py), and no part of a string is an answer to a problem here.
"""

import pytest

from attention_rhythm.tasks.answers import without_end, without_thinking
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import Problem
from attention_rhythm.tasks.quantities import is_unit, read_number
from tests.support.hostile import LENGTHS, numbered, processor_seconds

SECONDS = 2.0  # of processor time, the judge's with it
ORDINARY, ALL = 600, 10_000  # strings
AT_ONCE = 200  # of the ordinary ones
METALS = ("iron", "7 km", "E. coli", "y", "two", "copper")

MATHS = [  # problems, with a right answer to each
    (Problem("number", "?", "8675309", "math500"), r"\boxed{8675309}"),
    (Problem("expression", "?", r"\frac{x^2+\sqrt{7}}{3}", "math500"), r"\boxed{(x^2 + \sqrt 7)/3}"),
    (Problem("word", "?", r"\text{hippopotamus}", "math500"), r"\boxed{\text{Hippopotamus}}"),
]
OTHERS = [
    (
        Problem("countdown", "?", "917", "countdown", metadata={"numbers": [900, 17], "target": 917}),
        "<answer>900 + 17</answer>",
    ),
    (Problem("choice", "?", "F", "crossthink_qa", choices=METALS), r"\boxed{F}"),
    (Problem("name", "?", "hippolyta", "zebra"), r"\boxed{Hippolyta}"),
]


def problems_of(number):
    """One for each of the four graders, of the mathematics in turn."""
    return [MATHS[number // 2 % len(MATHS)], *OTHERS]


def graded(problem, text, told):
    """The grade of a text, which took no more than SECONDS."""
    before = processor_seconds()
    result = grade(problem, text)
    seconds = processor_seconds() - before
    assert seconds < SECONDS, f"{seconds:.2f} s for the {problem.id} on {told}: {text[:200]!r}"
    return result


def hold_to_the_claim(numbers):
    for number in numbers:
        text = numbered(number)
        for problem, _ in problems_of(number):
            result = graded(problem, text, f"numbered({number})")
            assert not result.correct, f"numbered({number}) is paid for the {problem.id}: {text[:200]!r}"
            assert result.score in ((0.0, 0.1) if problem.id == "countdown" else (0.0,))


# --- the strings that were slow once, and one that raised -------------------------------------------------------------

SPACES = " " * 1_900
SLOW_ONCE = {
    "half a fraction and spaces": rf"\boxed{{\frac{{\{SPACES}}}}}",
    "fractions that never begin": r"\boxed{" + r"\over" * 380 + "}",
    "text of spaces": rf"\boxed{{\text{{{SPACES}é}}}}",
    "symbols that are long in LaTeX": r"\boxed{" + "∞" * 1_900 + "}",
    "dots that are long in LaTeX": r"\boxed{" + "…" * 1_900 + "}",
    "units of area": r"\boxed{5 " + "m^2 " * 400 + "~}",
    "braces behind boxes that never close": r"\boxed{" * 20 + "{}" * 95_000,
    "a mark in a tag": "<answer>#### " + "* " * 95_000 + "x</answer>",
    "brackets around nothing": r"\boxed{" + "(,x=" * 390 + "5" + ")" * 390 + "}",
}


@pytest.mark.parametrize("name", SLOW_ONCE)
def test_what_was_slow_once_is_graded_in_time(name):
    for problem, _ in MATHS + OTHERS:
        assert not graded(problem, SLOW_ONCE[name], name).correct


def test_a_digit_that_is_no_number_is_no_base():
    assert read_number("5 base 8").value == 5
    assert read_number("5 base ①") is None  # a digit to str.isdigit(), and none to int()


def test_a_unit_is_read_once_however_many_ways_there_are():
    assert is_unit("m^2 " * 3) and is_unit("m^{ 2 } s^{-1}")
    assert not is_unit("m^2 " * 400 + "~")


# --- strings by their number ------------------------------------------------------------------------------------------


def test_a_number_always_makes_the_same_string_and_every_length_comes_up():
    assert numbered(12) == numbered(12) != numbered(14)
    lengths = sorted(len(numbered(number)) for number in range(200))
    assert lengths[0] < 100 and any(1_500 < n < 3_000 for n in lengths)
    assert any(15_000 < n < 30_000 for n in lengths) and 90_000 < lengths[-1] < 2 * max(LENGTHS)


@pytest.mark.parametrize("first", range(0, ORDINARY, AT_ONCE))
def test_a_hostile_string_is_not_paid_and_graded_in_time(first):
    hold_to_the_claim(range(first, first + AT_ONCE))


@pytest.mark.long
@pytest.mark.parametrize("first", range(ORDINARY, ORDINARY + ALL, 1_000))
def test_ten_thousand_hostile_strings_are_not_paid_and_graded_in_time(first):
    hold_to_the_claim(range(first, first + 1_000))


def test_a_right_answer_behind_a_hostile_string_is_paid():
    """So the test above does not pass because nothing is."""
    tried = 0
    for number in range(200):
        text = numbered(number)
        for problem, right in problems_of(number):
            response = f"{text}\n\nNo: my own answer to this problem is as follows.\n{right}"
            if without_thinking(without_end(response)).endswith(right):  # else it is in thoughts that never end
                tried += 1
                assert grade(problem, response).correct, f"numbered({number}), {problem.id}: {text[:200]!r}"
    assert tried > 600
