"""Every style of writing a right answer is paid and no wrong form is: for answers made up here, and for those of the
benchmarks. A documented style is one whose answers are refused, and docs/grading.md says why."""

import random

import pytest

from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import Problem, load_problems
from benchmarks.answer_styles import ANY_ANSWER, DOCUMENTED, STYLES, WRONG_FORMS, boxed, of_other_problems

GOLDS = {
    "numbers": (
        "0", "1", "4", "9", "12", "17", "-3", "-26", "58", "100", "360", "1024", "-4500", "31000", "2750000", "0.5",
        "3.75", "-12.25", "0.008", "073", "$84$",
    ),
    "fractions": (
        r"\frac{1}{2}", r"\frac{3}{4}", r"-\frac{1}{3}", r"\frac{9}{4}", r"-\frac{7}{5}", r"\frac{13}{60}",
        r"$\frac{22}{7}$", r"\dfrac{5}{8}",
    ),
    "expressions": (
        r"2\sqrt{3}", r"\frac{\sqrt{5}-1}{2}", r"\pi", r"\frac{3\pi}{8}", "x^2+5x-6", "3x^{2} - 2x + 7", r"2^{100}",
        r"n^3 \cdot (n+1)", "4+7i", r"6\sqrt{2} - \sqrt{10}", r"\log_2 7", r"e^{2}", "y = 3x - 5", r"y=\frac{x}{4}+1",
        r"90^\circ", r"35\%", "1202_3", r"k\pi + 1",
        r"12,\!500", r"x \le 4", r"5 \times 10^{7}",
    ),
    "lists": ("2, 5", "-1, 0, 8", r"\frac{1}{2}, 3", "7, 11, 13"),
    "tuples": ("(1,2)", "(-4, 9)", r"\left( 3, \frac{1}{6} \right)"),
    "intervals": ("(2,7]", r"[0, \infty)", r"(-\infty, 1) \cup (5, 8)", "[-3,3]"),
    "matrices": (r"\begin{pmatrix} 3 \\ -7 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 0 & 4 \end{pmatrix}"),
    "words": (r"\text{Monday}", r"\text{hyperbola}"),
    "letters": (r"\text{(C)}", r"\text{(A)}"),
}  # fmt: skip
ALL = [gold for golds in GOLDS.values() for gold in golds]

TASKS = ("math500", "olympiadbench", "minerva", "aime24", "aime25", "amc23", "gsm8k", "dapo_math")
MOST = 400  # different gold answers of a benchmark; of the larger ones a sample, drawn by the seed 0
OF_A_VALUE = {"boxed, x = ", "$$x = @$$", r"\( @ \) at the end"}  # nobody writes a letter like this
MAY_FAIL = 0.005  # of the answers of one task in one style


def is_paid(gold, response):
    return grade(Problem("m", "?", gold, "math500"), response).correct


def written(golds, rewrite):
    """(gold, response) for the gold answers that the rewriting is for."""
    return [(gold, response) for gold in golds if (response := rewrite(gold)) is not None]


def gold_answers(task, data_dir):
    split = "train" if task == "dapo_math" else "test"
    golds = sorted({problem.answer for problem in load_problems(task, split=split, data_dir=data_dir)})
    return golds if len(golds) <= MOST else random.Random(0).sample(golds, MOST)


# --- the rewritings themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "gold", "response"),
    [
        ("boxed", "5", r"So the final answer is $\boxed{5}$."),
        ("The answer is @.", "$5$", "The answer is 5."),
        ("1,234", "12345", boxed("12,345")),
        ("1,234", "999", None),
        ("in words", "42", boxed(r"\text{forty-two}")),
        (r"1.234 \times 10^3", "-4500", boxed(r"-4.5 \times 10^{3}")),
        ("mixed number 1 1/2", r"-\frac{7}{5}", boxed("-1 2/5")),
        ("a out of b", r"-\frac{7}{5}", None),
        ("decimal in brackets after it, no box", r"-\frac{1}{4}", r"The value is $-\frac{1}{4}$ (about -0.250)."),
        ("x**2", "x^{12}+y^2", boxed("x**12+y**2")),
        ("x**2", "x^{1/3}", None),
        ("x²", "x^{1/3}+x^{2}", boxed("x^{1/3}+x²")),
        ("list reversed", "7, 11, 13", boxed("13, 11, 7")),
        ("list reversed", r"10,\!080", None),
        ("2*x", "3x+2", boxed("3*x+2")),
        ("2*x", "4e33", None),
        ("in brackets", "a=1, b=2", None),
        ("x = a, y = b", "(-4, 9)", boxed("x = -4, y = 9")),
        ("B for (B)", r"\text{(C)}", boxed("C")),
    ],
)
def test_a_style_rewrites_the_answers_it_is_for(style, gold, response):
    assert STYLES[style](gold) == response


@pytest.mark.parametrize(
    ("form", "gold", "response"),
    [
        ("one more", r"\frac{1}{2}", boxed("1.5")),
        ("sign flipped", "0", None),
        ("inverted", r"\frac{3}{7}", boxed(r"\frac{7}{3}")),
        ("two decimals of a fraction", r"\frac{1}{4}", None),
        ("number!", "2", None),
        ("another base", "1202_3", boxed("1202_{4}")),
        ("a or b", "5", boxed(r"5 \text{ or } 6")),
        ("pair swapped", "(3, 3)", None),
        ("interval with another end", "(2,7]", boxed("(2,7)")),
        ("a number less in the list", "-2, -2", None),
        ("expression + 1", "y = 3x", None),
    ],
)
def test_a_wrong_form_is_made_where_it_is_wrong(form, gold, response):
    assert WRONG_FORMS[form](gold) == response


def test_answers_of_other_problems_are_worth_something_else():
    golds = ["5", "5.0", r"50\%", "0.5", r"\frac{1}{2}", "x = 5", r"\left(1, 2\right)", "(1,2)"]
    for seed in range(20):
        for gold, response in of_other_problems(golds, seed):
            kinds = [{"5", "5.0", "x = 5"}, {r"50\%", "0.5", r"\frac{1}{2}"}, {r"\left(1, 2\right)", "(1,2)"}]
            same = next(kind for kind in kinds if gold in kind)
            assert response not in {boxed(answer) for answer in same}


def test_every_style_and_every_wrong_form_is_used():
    assert [name for name, rewrite in (STYLES | WRONG_FORMS).items() if not written(ALL, rewrite)] == []


# --- answers made up here ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [style for style in STYLES if style not in DOCUMENTED])
def test_a_right_answer_is_paid_in_every_style(style):
    assert [pair for pair in written(ALL, STYLES[style]) if not is_paid(*pair)] == []


@pytest.mark.parametrize("style", DOCUMENTED)
def test_a_documented_style_is_refused(style):
    assert any(not is_paid(*pair) for pair in written(ALL, STYLES[style])), "it is paid: document it no longer"


@pytest.mark.parametrize("form", WRONG_FORMS)
def test_a_wrong_form_is_not_paid(form):
    assert [pair for pair in written(ALL, WRONG_FORMS[form]) if is_paid(*pair)] == []


@pytest.mark.parametrize("seed", range(5))
def test_the_answer_of_another_problem_is_not_paid(seed):
    assert [pair for pair in of_other_problems(ALL, seed) if is_paid(*pair)] == []


# --- answers of the benchmarks ----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_gold_answers_of_the_benchmarks_are_paid_in_every_style(task, data_dir):
    golds = gold_answers(task, data_dir)
    for name in STYLES.keys() - DOCUMENTED.keys():
        pairs = written(golds, STYLES[name])
        refused = [pair for pair in pairs if not is_paid(*pair)]
        assert len(refused) <= MAY_FAIL * len(pairs), (name, refused[:3])


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_no_wrong_form_of_the_benchmarks_answers_is_paid(task, data_dir):
    golds = gold_answers(task, data_dir)
    for name, rewrite in WRONG_FORMS.items():
        assert [pair for pair in written(golds, rewrite) if is_paid(*pair)] == [], name
    assert [pair for pair in of_other_problems(golds) if is_paid(*pair)] == []


@pytest.mark.long
def test_letters_of_multiple_choice_are_paid_in_every_style(data_dir):
    for problem in load_problems("crossthink_qa", data_dir=data_dir, limit=100):
        for name in ANY_ANSWER.keys() - OF_A_VALUE:
            assert grade(problem, ANY_ANSWER[name](problem.answer)).correct, (name, problem.answer)
