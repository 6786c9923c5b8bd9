"""What the judge of expressions says; how it survives hostile ones is tested in test_grading.py."""

import pytest

from attention_rhythm.tasks.math_judge import shared_judge


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2^{99}}", "2^{-99}"),
        (r"\sqrt{2}", "1.4142136"),
        (r"\sqrt{2}", r"\frac{2}{\sqrt{2}}"),
        ("(x+1)^2", "x^2+2x+1"),
    ],
)
def test_the_same_value_in_another_form(gold, answer):
    assert shared_judge().judge(gold, answer).equal


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        (r"10^{-9}\sqrt{2}", r"10^{-9}\sqrt{3}"),
        (r"\sqrt{2}\cdot 10^{-8}", r"-\sqrt{2}\cdot 10^{-8}"),
        (r"2^{100}", r"2^{100}+2^{70}"),
        ("x+1", "x-1"),
    ],
)
def test_small_and_large_numbers_differ_by_their_ratio(gold, answer):
    assert not shared_judge().judge(gold, answer).equal
