"""Where the final answer of a response stands, which option it chose, and when two answers are the same."""

import pytest

from attention_rhythm.tasks import grading
from attention_rhythm.tasks.answers import final_answer, shown
from attention_rhythm.tasks.choices import chosen, stated_answer
from attention_rhythm.tasks.math_answers import same_answer
from attention_rhythm.tasks.math_judge import UNDECIDED, Verdict
from attention_rhythm.tasks.problems import Problem


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{1}. So \boxed{2}", "2"),
        (r"\boxed{1} is too small, and \boxed{2}", "2"),
        (r"\boxed{1} is too small. " * 30 + r"\boxed{2}", "2"),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3"),  # side by side: one list
        (r"\boxed{2} and $\boxed{2}$", "2"),  # said twice
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\text{a brace: \}}}", r"\text{a brace: \}}"),
        ("<answer>1</answer>, no: <answer>2</answer>", "2"),
        (r"\boxed{1}, no: <answer>2</answer>", "2"),
        (r"<answer>1</answer>, no: \boxed{2}", "2"),
    ],
)
def test_the_last_of_what_is_boxed_or_tagged(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>\boxed{1}?</think> It is 2.", "2"),
        (r"<think>a</think> \boxed{1}? <think>b</think> It is 2.", "2"),
        (r"It is 2. <think>Or \boxed{1}", "2"),  # thoughts that never end
        (r"<think>Is it \boxed{1}", None),
    ],
)
def test_what_a_model_thinks_is_no_answer(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"It is 5. So \boxed{7", "5"),  # a box that is cut off
        ("The answer is $5$. No: the answer is $6$.", "6"),
        ("#### 5\n#### 6", "6"),
        ("#### Step 1 is easy\nThe answer is $3$.", "3"),  # a heading
    ],
)
def test_the_last_of_what_is_said_to_be_the_answer(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("prose", "expression"),
    [
        ("So it is x = 3, y = 5", "x = 3, y = 5"),  # a pair
        ("For x = 3, y = 5", "y = 5"),  # a value under a condition
        ("We get (3, 4), and that is it", "(3, 4)"),  # no expression ends in "and"
    ],
)
def test_the_whole_expression_around_the_last_number(prose, expression):
    assert shown(prose) == expression


def test_of_two_answers_of_a_choice_the_later_counts():
    assert stated_answer(r"\boxed{A}, no: <answer>B</answer>") == "B"
    assert stated_answer(r"<answer>B</answer>, no: \boxed{A}") == "A"
    assert stated_answer("The answer is A.\nNo, the answer is B.") == "B."


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B or C", None),
        ("not A: B", "B"),
        ("red", "A"),
        ("red apple, since it is sweet", "B"),  # the longer text of two that fit
    ],
)
def test_one_option_must_come_out(answer, letter):
    assert chosen(answer, {"A": "red", "B": "red apple", "C": "green"}) == letter


def agrees(gold, answer):
    """A judge that finds everything equal: what it is not asked cannot be."""
    return True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5, 6"),
        ("5", r"\sqrt{25} \text{ if odd}"),  # math-verify would drop the words
        ("x + 1", r"x + 1 \text{ squared}"),
        (r"\frac{1}{3}", "0.3333"),  # too few digits for a rounded value
        ("50", "0.5"),
    ],
)
def test_answers_that_differ_are_not_left_to_the_judge(gold, answer):
    assert not same_answer(gold, answer, agrees)


@pytest.mark.parametrize(
    ("gold", "answer"), [(r"50\%", "0.5"), ("0.5", r"50\%"), (r"\frac{1}{3}", "0.333333"), ("5", "x = 5")]
)
def test_one_number_in_two_forms(gold, answer):
    assert same_answer(gold, answer, lambda *_: False)


def test_an_answer_is_as_long_as_its_latex(monkeypatch):
    asked = []
    monkeypatch.setattr(grading, "same_answer", lambda gold, answer, judge: bool(asked.append(answer)))
    most = grading.MAX_ANSWER // len(r"\infty ")
    for times in (most, most + 1):
        grading.grade(Problem("m", "?", "1", "math500"), rf"\boxed{{{'∞' * times}}}")
    assert asked == ["∞" * most]


def test_an_answer_that_is_too_long_to_be_one_is_wrong_and_kept_in_part():
    long = "1" * 3 * grading.MAX_ANSWER
    result = grading.grade(Problem("m", "?", long, "math500"), rf"\boxed{{{long}}}")
    assert result == grading.Grade(False, 0.0, "1" * grading.MAX_ANSWER)


@pytest.mark.parametrize(("verdict", "asked"), [(Verdict(False, True), 3), (UNDECIDED, 1)])
def test_after_a_reading_that_took_all_the_time_no_other_is_judged(verdict, asked, monkeypatch):
    class Judge:
        calls = 0

        def judge(self, gold, answer):
            self.calls += 1
            return verdict

    judge = Judge()
    monkeypatch.setattr(grading, "shared_judge", lambda: judge)
    assert not grading.grade(Problem("m", "?", "x + 1", "math500"), r"\boxed{y = a x = b x}").correct
    assert judge.calls == asked
