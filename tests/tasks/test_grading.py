"""Grading: right answers in many forms, wrong ones, hostile ones within two seconds, and the real benchmarks."""

import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_rhythm.tasks.answers import last_boxed
from attention_rhythm.tasks.choices import stated_answer
from attention_rhythm.tasks.grading import Grade, grade
from attention_rhythm.tasks.latex import plain_latex
from attention_rhythm.tasks.math_judge import MEMORY_BYTES, MathJudge
from attention_rhythm.tasks.problems import Problem, load_problems

ROOT = Path(__file__).resolve().parents[2]


def maths(gold):
    return Problem("m", "?", gold, "math500")


def choice(gold, *texts):
    return Problem("c", "?", gold, "crossthink_qa", choices=texts)


# --- mathematics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("42", r"So the answer is $\boxed{42}$."),
        ("42", r"First \boxed{7}, no: \boxed{42}"),
        ("42", r"\boxed{7} is too small. " * 30 + r"\boxed{42}"),
        ("1 < x < 2", r"\boxed{(1, 2)}"),  # math-verify takes an interval for an inequality, but not the reverse
        ("42", "The answer is 42."),
        ("18", "She makes 9 * 2 = $18.\n#### 18"),
        ("41", "the answer to 1 and 5 points: 26 + 15 = 41\n#### 41"),
        ("1200", r"\boxed{1,200}"),
        ("073", r"\boxed{\textbf{(073)}}"),
        ("18", r"\boxed{\$18}"),
        ("18", r"\boxed{18 dollars}"),
        ("18", r"\boxed{18.00}"),
        ("033", r"\boxed{33}"),
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        (r"\frac{1}{2}", r"\boxed{.5}."),
        (r"\frac{3}{4}", r"\boxed{3/4}"),
        (r"$2^{1009}$", r"\boxed{2^{1009}}"),
        (r"2+\sqrt{3}", r"\boxed{\sqrt{3}+2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}"),
        ("$(1,8,19), (2,7,13), (4,5,7)$", r"\boxed{(4,5,7),(1,8,19),(2,7,13)}"),
        ("$221,$8$", r"\boxed{8, 221}"),
        (r"(2,12) \cup (12,102)", r"\boxed{(12,102)\cup(2,12)}"),
        (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}"),
        ("4.5e33", r"\boxed{4.5 \times 10^{33}}"),
        ("-3./2", r"\boxed{-1.5}"),
        ("np.arcsin(10/13)", r"\boxed{\arcsin(10/13)}"),
        (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\boxed{\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}}"),
    ],
)
def test_right_answers(gold, response):
    result = grade(maths(gold), response)
    assert result.correct and result.score == 1.0 and result.extracted


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("42", r"\boxed{41}"),
        ("42", r"\boxed{42}, no: \boxed{41}"),
        ("42", "I do not know."),
        ("42", ""),
        ("42", r"\boxed{}"),
        ("42", r"\boxed{42"),  # cut off
        ("5", r"\boxed{5 million}"),
        ("2", r"\boxed{2 pi}"),
        ("(1,2)", r"\boxed{(2,1)}"),
        (r"\frac{1}{3}", r"\boxed{0.33}"),
        (r"\sqrt{2}", r"\boxed{2}"),
        ("p - q", r"\boxed{q - p}"),
        ("3", r"\boxed{3, 4}"),
        ("5", r"\boxed{.5}"),
    ],
)
def test_wrong_answers(gold, response):
    result = grade(maths(gold), response)
    assert not result.correct and result.score == 0.0


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"a \boxed{1} b \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fboxed{4}", "4"),
        (r"\boxed {5}", "5"),
        ("boxed{6}", None),
        (r"\boxed{7\}", None),
    ],
)
def test_the_last_box_that_closes(text, content):
    assert last_boxed(text) == content


@given(
    st.text(max_size=50), st.text(alphabet="ab12+^ ", min_size=1, max_size=20), st.text(alphabet="xyz{ .", max_size=20)
)
def test_what_is_boxed_last_is_found_whatever_stands_around_it(before, inside, after):
    assert last_boxed(before + rf" \boxed{{{inside}}}" + after) == inside.strip()


def test_computer_notations_become_latex():
    assert plain_latex("$4.5e-33$") == r"4.5 \times 10^{-33}"
    assert plain_latex(r"\$5 and e2 and x1e3") == r"\$5 and e2 and x1e3"


# --- multiple choice, names, countdown --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{B}",
        r"\boxed{b}",
        r"\boxed{\text{B}}",
        r"\boxed{(B)}",
        r"\boxed{B: two apples}",
        r"\boxed{two apples}",
        r"\boxed{\text{Two apples.}}",
        "The answer is B.",
        "The correct answer is: **B**",
        "The answer is B because there are two.",
        "Answer: (B) two apples",
        "It is clear.\nB",
    ],
)
def test_a_choice_by_its_letter_or_its_text(response):
    assert grade(choice("B", "an apple", "two apples", "E. coli"), response).correct


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{A}",
        r"\boxed{B or C}, hm: \boxed{C}",
        "The answer is A.",
        "Both are fine.",
        "",
        r"\boxed{E. coli}",
        r"\boxed{Z}",
    ],
)
def test_another_choice_is_wrong(response):
    assert not grade(choice("B", "an apple", "two apples", "E. coli", "x", "y"), response).correct


def test_a_change_of_mind_counts():
    options = ("an apple", "two apples", "three apples")
    response = "The answer is A.\nNo, that is one too few.\nThe answer is B."
    assert grade(choice("B", *options), response).correct and not grade(choice("A", *options), response).correct


def test_words_are_no_letters():
    assert not grade(choice("A", "one", "two"), "The answer is A good question.").correct
    assert not grade(choice("I", *"abcdefghi"), "The answer is I think the second.").correct
    assert grade(choice("C", "one", "two", "E. coli"), r"\boxed{E. coli}").correct


@pytest.mark.parametrize(
    "response", [r"\boxed{Arnold}", r"\boxed{\text{arnold}}", "The answer is Arnold.", "So:\nARNOLD"]
)
def test_a_zebra_puzzle_asks_for_a_name(response):
    assert grade(Problem("z", "?", "arnold", "zebra"), response).correct
    assert not grade(Problem("z", "?", "bob", "zebra"), response).correct


def test_zebralogics_choices_are_texts():
    assert grade(Problem("z", "?", "Ann", "zebra", choices=("Bob", "Ann")), r"\boxed{B}").correct


def test_countdown_has_its_own_reward():
    problem = Problem("n", "?", "6", "countdown", metadata={"numbers": [4, 2], "target": 6})
    assert grade(problem, "<answer>4 + 2</answer>") == Grade(True, 1.0, "4 + 2")
    assert grade(problem, "<answer>4 * 2</answer>") == Grade(False, 0.1, "4 * 2")
    assert grade(problem, r"\boxed{6}") == Grade(False, 0.0, None)


def test_an_unknown_task_is_an_error():
    with pytest.raises(ValueError, match="unknown task 'chess'"):
        grade(Problem("x", "?", "1", "chess"), "1")


# --- hostile responses ------------------------------------------------------------------------------------------------

HOSTILE = {
    "nested powers": r"\boxed{9**9**9**9}",
    "nested latex powers": r"\boxed{9^{9^{9^{9}}}}",
    "tower of ten": r"\boxed{10^{10^{10}}}",
    "binomial": r"\boxed{\binom{10^9}{10^8}}",
    "factorial": r"\boxed{1000000!}",
    "endless sum": r"\boxed{\sum_{k=1}^{10^{9}} \frac{1}{k}}",
    "endless product": r"\boxed{\prod_{k=1}^{10^8} k}",
    "hard integral": r"\boxed{\int_0^1 x^{x^{x^x}} dx}",
    "high degree": r"\boxed{x^{1000000000} - 1 = 0}",
    "power without a box": "The answer is $9^{9^{9^{9}}}$",
    "million digits": "7" * 10**6,
    "million digits in a box": r"\boxed{" + "7" * 10**6 + "}",
    "thousand digits": r"\boxed{" + "7" * 1_900 + "}",
    "deep brackets": "(" * 10**5 + "1" + ")" * 10**5,
    "deep brackets in a box": r"\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
    "deep braces": r"\boxed{" + "{" * 900 + "1" + "}" * 900 + "}",
    "deep fractions": r"\boxed{" + r"\frac{1}{" * 180 + "2" + "}" * 181,
    "unclosed fractions": r"\frac{" * 10_000,
    "boxes that never close": r"\boxed{" * 100_000,
    "many signs": r"\boxed{" + "1+" * 900 + "1}",
    "arabic digits": r"\boxed{٤٢}",
    "full-width digits": r"\boxed{４２}",
    "mathematical digits": r"\boxed{𝟒𝟐}",
    "arabic digits without a box": "٤٢",
    "code": r"\boxed{__import__('os').system('touch hacked')}",
    "code in fences": "```python\nprint(42 if __import__('os').system('touch hacked') else 0)\n```",
    "words around the answer": r"\boxed{import 42)(}",
    "lambda": r"\boxed{(lambda: 42)()}",
    "megabyte of text": "lorem ipsum " * 90_000,
    "megabyte of dollars": "$" * 10**6,
    "megabyte of backslashes": "\\" * 10**6,
    "megabyte of space": " \n" * 500_000,
    "many stated answers": "the answer is " * 70_000,
    "many tags": "<answer>" * 125_000,
    "nul": "\x00" * 100,
    "lone surrogate": "\ud800",
}


@pytest.mark.parametrize("task", ["math500", "countdown", "crossthink_qa", "zebra"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_responses_are_wrong_within_two_seconds(name, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = Problem(
        "h",
        "?",
        "B" if task == "crossthink_qa" else "42",
        task,
        choices=("first", "second") if task == "crossthink_qa" else None,
        metadata={"numbers": [40, 2], "target": 42},
    )
    start = time.monotonic()
    result = grade(problem, HOSTILE[name])
    assert time.monotonic() - start < 2
    assert not result.correct and result.score == 0.0
    assert not list(tmp_path.iterdir())


def test_a_good_answer_after_a_hostile_one_is_graded_at_once():
    grade(maths("42"), HOSTILE["tower of ten"])
    start = time.monotonic()
    assert grade(maths("42"), r"\boxed{42}").correct
    assert time.monotonic() - start < 0.5


def test_a_right_answer_after_a_megabyte_of_thought():
    assert grade(maths("42"), "thinking " * 120_000 + r"\boxed{42}").correct


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=r"0123456789+-*/^_(){}[]\$,.=<>xyfracsqtboxedint ", max_size=60))
def test_fuzz_any_text_is_graded_in_time(text):
    for response in (text, rf"\boxed{{{text}}}"):
        start = time.monotonic()
        result = grade(maths("123456789"), response)
        assert time.monotonic() - start < 2
        assert isinstance(result.correct, bool) and result.score in (0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(1, 999))
def test_fuzz_fractions_equal_themselves_and_nothing_else(top, bottom):
    gold = maths(rf"\frac{{{top}}}{{{bottom}}}")
    assert grade(gold, rf"\boxed{{\frac{{{2 * top}}}{{{2 * bottom}}}}}").correct
    assert not grade(gold, rf"\boxed{{\frac{{{top + 1}}}{{{bottom}}}}}").correct


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_fuzz_choices_and_names(text):
    for problem in (choice("B", "first", "second"), Problem("z", "?", "arnold", "zebra")):
        result = grade(problem, text)
        assert result.score == float(result.correct)
        assert result.extracted == stated_answer(text)


# --- the time limit, wherever it is called from -----------------------------------------------------------------------


def hostile_then_good(_=None):
    start = time.monotonic()
    wrong = grade(maths("42"), HOSTILE["tower of ten"]).correct
    return wrong, grade(maths("42"), r"\boxed{42}").correct, time.monotonic() - start


def test_in_threads():
    with ThreadPoolExecutor(4) as pool:
        assert [r[:2] for r in pool.map(hostile_then_good, range(4))] == [(False, True)] * 4


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_worker_processes(method, monkeypatch):
    assert grade(maths("1"), r"\boxed{1}").correct  # the parent has its own judge, which a forked child must not use
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        results = pool.map(_script_job, range(2))
    assert results == [(False, True)] * 2
    assert grade(maths("1"), r"\boxed{1}").correct


def _script_job(_):
    from attention_rhythm.tasks.base import Problem
    from attention_rhythm.tasks.grading import grade

    problem = Problem("m", "?", "42", "math500")
    return grade(problem, r"\boxed{10^{10^{10}}}").correct, grade(problem, r"\boxed{42}").correct


SCRIPT = r"""
import os, signal, threading
from attention_rhythm.tasks.grading import grade, shared_judge
from attention_rhythm.tasks.base import Problem
problem = Problem("m", "?", "42", "math500")
print(grade(problem, r"\boxed{\sqrt{1764}}").correct, shared_judge()._nursery[0].pid, flush=True)
"""


ENDS = {
    "by itself": "",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "killed while grading": "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
    r"grade(problem, r'\boxed{10^{10^{10}}}')",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_script_needs_no_main_guard_and_leaves_no_process_however_it_ends(end):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + end], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    correct, nursery = done.stdout.split()
    assert correct == "True"
    deadline = time.monotonic() + 5
    while members(int(nursery)):
        assert time.monotonic() < deadline, "a process of the judge lives on"
        time.sleep(0.05)


def members(session: int) -> list[tuple[int, str]]:
    """(pid, state) of the processes of a session: the nursery leads one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(owner) == session:
                found.append((int(entry.name), state))
    return found


def test_killed_children_are_reaped():
    judge = MathJudge(seconds=0.2)
    try:
        for _ in range(3):
            assert not judge.judge("42", "10^{10^{10}}").decided
            assert judge.judge("42", "42").equal
        states = [state for _, state in members(judge._nursery[0].pid)]
        assert len(states) == 2 and "Z" not in states
    finally:
        judge.close()


def test_the_child_has_a_memory_limit():
    judge = MathJudge()
    try:
        assert judge.judge("42", "42").equal
        nursery = judge._nursery[0].pid
        (child,) = (pid for pid, _ in members(nursery) if pid != nursery)
        assert resource.prlimit(child, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
    finally:
        judge.close()


def test_time_between_two_requests_is_not_counted():
    judge = MathJudge(seconds=0.25)
    try:
        assert judge.judge("42", "42").equal
        time.sleep(1.8 * judge.seconds)  # more than the limit on wall time
        assert judge.judge("42", "42").equal
    finally:
        judge.close()


def test_a_killed_nursery_is_replaced():
    judge = MathJudge()
    try:
        assert judge.judge("42", "42").equal
        os.kill(judge._nursery[0].pid, signal.SIGKILL)
        judge._nursery[0].wait()
        assert not judge.judge("42", "42").decided  # nobody was there to answer
        assert judge.judge("42", "42").equal
    finally:
        judge.close()


def test_a_grade_costs_little():
    grade(maths("42"), r"\boxed{42}")
    start = time.monotonic()
    for i in range(200):
        grade(maths("42"), rf"\boxed{{{i}}}")
    assert (time.monotonic() - start) / 200 < 0.01


# --- the real benchmarks ----------------------------------------------------------------------------------------------


def gold_response(problem):
    """The gold solution; where it ends without a box (OlympiadBench: in all), the gold answer is stated below it."""
    solution = problem.metadata["solution"]
    return solution if last_boxed(solution) else f"{solution}\n\nThe answer is $\\boxed{{{problem.answer}}}$."


@pytest.mark.parametrize(
    ("task", "bound"), [("math500", 0.99), ("olympiadbench", 0.97), ("minerva", 0.99), ("aime24", 0.99)]
)
def test_gold_solutions_are_correct(task, bound, data_dir):
    problems = load_problems(task, data_dir=data_dir, limit=500)
    wrong = [(p.id, p.answer) for p in problems if not grade(p, gold_response(p)).correct]
    assert 1 - len(wrong) / len(problems) >= bound, wrong


def rewritten(answer):
    """The same answer in other LaTeX."""
    answer = answer.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", "")
    return re.sub(r"(?<=[\d,])\s+", "", answer)


@pytest.mark.parametrize(("task", "least"), [("math500", 50), ("olympiadbench", 100), ("minerva", 20)])
def test_gold_answers_in_other_latex_are_correct(task, least, data_dir):
    problems = [p for p in load_problems(task, data_dir=data_dir) if rewritten(p.answer) != p.answer]
    wrong = [p.answer for p in problems if not grade(p, rf"\boxed{{{rewritten(p.answer)}}}").correct]
    assert len(problems) >= least
    assert 1 - len(wrong) / len(problems) >= 0.9, wrong


@pytest.mark.parametrize("task", ["math500", "olympiadbench", "minerva", "gsm8k", "aime24", "crossthink_qa"])
def test_gold_answers_of_other_problems_are_wrong(task, data_dir):
    problems = load_problems(task, data_dir=data_dir, limit=500)
    others = [p.answer for p in problems]
    random.Random(0).shuffle(others)
    pairs = [
        (p, other) for p, other in zip(problems, others, strict=True) if plain_latex(p.answer) != plain_latex(other)
    ]
    accepted = [(p.answer, other) for p, other in pairs if grade(p, rf"\boxed{{{other}}}").correct]
    assert 1 - len(accepted) / len(pairs) >= 0.99, accepted


def test_every_gold_letter_and_every_gold_text_of_crossthink_is_correct(data_dir):
    for problem in load_problems("crossthink_qa", data_dir=data_dir):
        assert grade(problem, rf"\boxed{{{problem.answer}}}").correct
        assert grade(problem, f"The answer is: {problem.metadata['answer_text']}").correct


def test_gsm8k_solutions_need_no_box(data_dir):
    problems = load_problems("gsm8k", data_dir=data_dir)
    assert all(grade(p, p.metadata["solution"]).correct for p in problems)


def test_every_generated_countdown_solution_and_zebra_answer_is_correct(offline):
    for problem in load_problems("countdown", limit=100):
        assert grade(problem, f"So\n<answer>{problem.metadata['solution']}</answer>").correct
    for problem in load_problems("zebra", limit=5):
        assert grade(problem, rf"\boxed{{{problem.answer.title()}}}").correct
