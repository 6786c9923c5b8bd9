"""Countdown: items that can be solved and do not repeat, and a reward that runs no code."""

import ast
import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_rhythm.tasks.countdown import (
    countdown_answer,
    countdown_reward,
    evaluate,
    generate_countdown,
    select_countdown,
)
from attention_rhythm.tasks.problems import load_problems

# --- reward -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("<answer> (19 + 36) + (55 - 7) </answer>", 1.0),  # 55 + 48 = 103
        ("thinking\n<answer>55 + 36 + 19 - 7</answer>\n", 1.0),  # white space after the last line is no line
        ("<answer>1 + 1</answer> no: <answer>19 + 36 + 55 - 7</answer>", 1.0),  # the last one counts
        ("<answer>19 + 36 + 55 - 7</answer> no: <answer>1 + 1</answer>", 0.1),
        ("<answer>19 + 36 + 55 - 7</answer>\nDone.", 0.0),  # not on the last line
        ("19 + 36 + 55 - 7", 0.0),  # no tag
        ("<answer>19 + 36 + 55 - 7", 0.0),  # not closed
        ("<answer>19 + 36 + 55 + 7</answer>", 0.1),  # 117
        ("<answer>19 + 36 + 55</answer>", 0.1),  # a number left out
        ("<answer>103</answer>", 0.1),
        ("<answer>19 + 36 + 55 - 7 + 7 - 7</answer>", 0.1),  # a number twice
        ("<answer>19 + 36 + 55 - 7 = 103</answer>", 1.0),  # the target behind it changes nothing
        ("<answer>19 + 36 + 55 - 7 = 104</answer>", 0.1),
        ("<answer>103 = 19 + 36 + 55 - 7</answer>", 0.1),
        ("<answer>19 + 36 + 55 – 7</answer>", 1.0),  # the minus of print
        (r"<answer>(19 \times 36 + 55 \div 7) = 103</answer>", 0.1),
        ("<answer></answer>", 0.1),
    ],
)
def test_reward_of_19_36_55_7_to_103(response, reward):
    assert countdown_reward(response, [19, 36, 55, 7], 103) == reward


def test_fractions_on_the_way_are_exact():
    assert countdown_reward("<answer>8 / (3 - 8 / 3)</answer>", [3, 3, 8, 8], 24) == 1.0  # 8 / (1/3)


@pytest.mark.parametrize(
    ("expression", "numbers", "reward"),
    [
        ("24 + 1 / 12", [24, 1, 12], 0.1),  # near is not there
        ("24 + 1 / 99999", [24, 1, 99_999], 0.1),  # a little more than 1e-5
        ("24 - 1 / 99999", [24, 1, 99_999], 0.1),
        ("24 + 1 / 999999", [24, 1, 999_999], 1.0),  # TinyZero's tolerance is for its floats
    ],
)
def test_a_value_within_1e_5_of_the_target_reaches_it(expression, numbers, reward):
    assert countdown_reward(f"<answer>{expression}</answer>", numbers, 24) == reward


def test_division_by_zero_is_a_wrong_answer():
    assert countdown_reward("<answer>5 / (3 - 3)</answer>", [3, 3, 5], 5) == 0.1


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 / 2", Fraction(7, 2)),
        ("-3 + 8", 5),
        ("8 - -3", 11),
        ("+3 + 8", 11),
        ("8 - (+3)", 5),
        ("2-3-4", -5),
        ("12/6/2", 1),
    ],
)
def test_values(expression, value):
    assert evaluate(expression)[1] == value


def test_a_unary_plus_is_paid_as_by_tinyzero():
    assert countdown_reward("<answer>+19 + 36 + 55 - 7</answer>", [19, 36, 55, 7], 103) == 1.0


def test_a_unary_minus_leaves_the_number_what_it_is():
    assert evaluate("-(3 - 8)") == ([3, 8], 5)
    assert countdown_reward("<answer>-(3 - 8)</answer>", [3, 8], 5) == 1.0


@pytest.mark.parametrize(
    "expression",
    [
        "2 ** 3",
        "9**9**9**9",
        "7 // 2",
        "7 % 2",
        "1 << 9",
        "1.5 + 2",
        "1e5",
        "1_0",
        "0x10",
        "007",
        "3(4)",
        "1, 2",
        "x",
        "(lambda: 1)()",
        "__import__('os').system('true')",
        "[1][0]",
        "٤ + ٢",
        "４ + ２",
        "2²",
        "6 × 7",
        "1;2",
        "1\n2",
        "\x00",
        "",
        "()",
        "(1",
        "1)",
        "1" * 7,
        "1+" * 150 + "1",
        "(" * 99 + "1" + ")" * 99 + "+",
        "-" * 100 + "1",
        "+".join("1" * 60),
    ],
)
def test_everything_else_is_refused(expression):
    with pytest.raises(ValueError, match=r"."):
        evaluate(expression)


@pytest.fixture
def collector_lets_threads_in():
    """The garbage collector runs all the time, and another thread goes on while it does."""
    before, callback = gc.get_threshold(), lambda phase, info: time.sleep(1e-5)
    gc.callbacks.append(callback)
    gc.set_threshold(10)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(callback)


def test_threads_parse_as_one_does(collector_lets_threads_in):
    expressions = [f"(({n} + 2) * 3 - 4) * 5 + 6" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        values = [value for _, value in pool.map(evaluate, expressions)]
    assert values == [((n + 2) * 3 - 4) * 5 + 6 for n in range(200)]


def test_a_process_forked_beside_parsing_threads_parses(collector_lets_threads_in):
    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(evaluate, "1 + 2 * (3 - 4)") for _ in range(400)]
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(int(evaluate("1 + 2")[1]))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert all(job.result()[1] == -1 for job in busy)


def test_a_megabyte_is_cut_first():
    assert countdown_reward("<answer>" * 125_000, [1], 1) == 0.0
    assert countdown_reward("<answer>" + "1" * 10**6 + "</answer>", [1], 1) == 0.0  # the tag is out of reach
    assert countdown_reward("x" * 10**6 + "<answer>1</answer>", [1], 1) == 1.0


@given(st.text(alphabet="0123456789+-*/() ._x<answer>\n٤", max_size=80))
def test_fuzz_any_text_gets_one_of_three_rewards(text):
    for response in (text, f"<answer>{text}</answer>"):
        assert countdown_reward(response, [1, 2, 3, 4], 10) in (0.0, 0.1, 1.0)


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda text: f"(-{text})")
    ),
    max_leaves=6,
)


@given(expressions)
def test_fuzz_values_are_pythons_in_exact_arithmetic(expression):
    tree = ast.parse(expression, mode="eval")
    numbers = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]

    def oracle(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp):
            return -oracle(node.operand)
        sign = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}[type(node.op)]
        return getattr(oracle(node.left), sign)(oracle(node.right))

    try:
        expected = oracle(tree.body)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            evaluate(expression)
        return
    used, value = evaluate(expression)
    assert (sorted(used), value) == (sorted(numbers), expected)


# --- construction -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    return generate_countdown(20_512, seed=0)


def test_the_benchmark_is_20000_and_512_distinct_items(pool):
    keys = [(item.target, *sorted(item.numbers)) for item in pool]
    assert len(pool) == len(set(keys)) == 20_512


def test_every_item_is_solved_by_its_solution(pool):
    for item in pool:
        assert countdown_reward(f"<answer>{item.solution}</answer>", item.numbers, item.target) == 1.0


def test_items_are_four_numbers_of_1_to_99_and_a_target_of_10_to_99(pool):
    assert {len(item.numbers) for item in pool} == {4}
    assert {n for item in pool for n in item.numbers} == set(range(1, 100))
    assert {item.target for item in pool} == set(range(10, 100))


def test_a_seed_fixes_the_items_and_a_longer_list_begins_with_the_shorter(pool):
    assert generate_countdown(512, seed=0) == pool[:512]
    assert generate_countdown(10, seed=1) != pool[:10]


def test_other_shapes():
    items = generate_countdown(50, seed=3, numbers=3, number_range=(1, 10), target_range=(10, 50))
    assert all(len(i.numbers) == 3 and max(i.numbers) <= 10 and 10 <= i.target <= 50 for i in items)
    assert all(evaluate(i.solution) == (evaluate(i.solution)[0], i.target) for i in items)


def test_a_step_may_be_worth_zero():
    (item,) = generate_countdown(1, numbers=3, number_range=(5, 5), target_range=(0, 0))
    assert evaluate(item.solution) == ([5, 5, 5], 0)  # (5 - 5) * 5: there is no way around 0


def test_nothing_is_divided_by_zero():
    # 0 / 0 would reach any target: (5 - 5) / (5 - 5) "is" 7; 5 * 5 - 5 - 5 and the like do not
    with pytest.raises(ValueError, match="not reached"):
        generate_countdown(1, numbers=4, number_range=(5, 5), target_range=(77, 77))


def steps(expression):
    """The value of every operation of an expression."""
    nodes = (node for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.BinOp))
    return [evaluate(ast.unparse(node))[1] for node in nodes]


def test_every_step_of_a_solution_is_whole_and_not_negative(pool):
    assert steps("(7 - 9) / 4") == [Fraction(-1, 2), -2]
    assert all(value >= 0 and value.denominator == 1 for item in pool[:2000] for value in steps(item.solution))


def test_ranges_that_cannot_give_the_items_are_an_error():
    with pytest.raises(ValueError, match="ranges"):
        generate_countdown(1000, numbers=2, number_range=(1, 3), target_range=(1, 9))
    with pytest.raises(ValueError, match="ranges"):
        generate_countdown(1, numbers=2, number_range=(1, 3), target_range=(50, 60))


def test_splits_are_disjoint_and_tell_what_the_grader_needs(offline):
    test, train = (load_problems("countdown", split=split) for split in ("test", "train"))
    assert (len(test), len(train)) == (512, 20_000)
    keys = [{(p.metadata["target"], *sorted(p.metadata["numbers"])) for p in part} for part in (test, train)]
    assert not keys[0] & keys[1]
    assert str(test[0].metadata["numbers"]) in test[0].question and test[0].answer in test[0].question


def test_the_hubs_rows_are_split_without_overlap_and_only_four_numbers_are_kept():
    rows = [{"nums": [i, 2, 3, 4], "target": 10 + i} for i in range(600)]
    rows += [{"nums": [1, 2, 3], "target": 6}, {"nums": [4, 3, 2, 0], "target": 10}]  # three numbers; the first again
    test, train = select_countdown(rows, "test"), select_countdown(rows, "train")
    assert test == rows[:512] and train == rows[512:600]


def test_the_answer_is_the_last_of_the_last_line():
    assert countdown_answer("<answer>1</answer>\n<answer>2</answer> <answer> 3 </answer>") == "3"
    assert countdown_answer("nothing") is None
