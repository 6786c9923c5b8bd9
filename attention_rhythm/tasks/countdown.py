"""Countdown: reach a target from four numbers. TinyZero's construction and its reward, with a parser instead of `eval`.

Construction: a target and numbers are drawn uniformly, the numbers again until they reach the target using every one
once, with + - * / and whole, non-negative intermediate values. No two items share target and numbers (in any order).

Reward (`countdown_reward`): 0 with no <answer> on the last line, 1.0 if its expression uses the numbers exactly once
each and is worth the target, 0.1 otherwise. Signs are TinyZero's: `-(3 - 8)` and `+5` are allowed. Deviations from
TinyZero, which runs Python's eval on the text: `**`, `//` and decimal points are no arithmetic of the puzzle and earn
0.1; so does an expression beyond the limits on length, depth and digits below; `= 98` behind the expression is allowed
where 98 is the target, and so are the signs of print and LaTeX (× · ÷ − \\times \\cdot \\div), since both only write
the same solution down; white space after the last line is not a line.
"""

from __future__ import annotations

import ast
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from attention_rhythm.tasks.base import Generated, HubFile, Problem, Row, Task, id_field, text_field

TEST_SIZE = 512
TRAIN_SIZE = 20_000
POOL_SEED = 0

MAX_EXPRESSION = 200  # characters; four numbers of two digits, fully bracketed, take about 30
MAX_DEPTH = 20
MAX_DIGITS = 6

# Python 3.11 counts the depth of a tree for all threads together: where the collector lets another thread in,
# ast.parse ends in a SystemError (python/cpython#106905). A fork waits, so that no child is born with the lock taken.
_PARSING = threading.Lock()
os.register_at_fork(before=_PARSING.acquire, after_in_parent=_PARSING.release, after_in_child=_PARSING.release)
SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", r"\times": "*", r"\cdot": "*", r"\div": "/"}
TAIL = 2_000  # characters of the last line that are searched for an answer
TOLERANCE = Fraction(1, 100_000)

BATCH = 4096
MAX_ROUNDS = 50


@dataclass(frozen=True)
class CountdownItem:
    """numbers as shown, the target, and one expression that reaches it."""

    numbers: tuple[int, ...]
    target: int
    solution: str


# --- construction -----------------------------------------------------------------------------------------------------


def generate_countdown(
    count: int,
    *,
    seed: int = 0,
    numbers: int = 4,
    number_range: tuple[int, int] = (1, 99),
    target_range: tuple[int, int] = (10, 99),
) -> list[CountdownItem]:
    """`count` distinct, solvable items; ranges include both ends. The first k of a longer list are the list of k.

    ValueError where the ranges do not hold enough items (or 50 rounds of 4096 draws did not find them).
    """
    rng = np.random.default_rng(seed)
    items: dict[tuple, CountdownItem] = {}
    while len(items) < count:
        before = len(items)
        for item in _draw_batch(rng, numbers, number_range, target_range):
            items.setdefault((item.target, tuple(sorted(item.numbers))), item)
        if len(items) == before:
            raise ValueError(f"found only {len(items)} of {count} distinct items: the ranges are too narrow")
    return list(items.values())[:count]


def _draw_batch(
    rng: np.random.Generator, size: int, number_range: tuple[int, int], target_range: tuple[int, int]
) -> list[CountdownItem]:
    """BATCH solvable items, not yet distinct: targets are kept, numbers drawn again until they reach them."""
    targets = rng.integers(*target_range, size=BATCH, endpoint=True)
    items: list[CountdownItem | None] = [None] * BATCH
    pending = np.arange(BATCH)
    for _ in range(MAX_ROUNDS):
        tried = np.tile(pending, BATCH // len(pending))  # the fewer are left, the more draws for each
        numbers = rng.integers(*number_range, size=(len(tried), size), endpoint=True)
        for row, solution in sorted(_solve(numbers, targets[tried]).items()):
            index = tried[row]
            items[index] = items[index] or CountdownItem(tuple(numbers[row].tolist()), int(targets[index]), solution)
        pending = np.array([index for index in pending if items[index] is None], dtype=np.int64)
        if not len(pending):
            return [item for item in items if item is not None]  # all of them
    raise ValueError(f"{len(pending)} of {BATCH} targets not reached in {MAX_ROUNDS} rounds: the ranges do not fit")


def _solve(numbers: np.ndarray, targets: np.ndarray) -> dict[int, str]:
    """row -> an expression, for the rows of `numbers` (B, n >= 2) that reach `targets` (B,). All rows at once."""
    columns = [(f"{{{index}}}", column.astype(np.float64)) for index, column in enumerate(numbers.T)]
    solved: dict[int, str] = {}
    unsolved = np.ones(len(targets), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        for (a, x), (b, y) in _pairs(columns):
            for template, hits in _last_steps(a, x, b, y, targets):
                for row in np.flatnonzero(hits & unsolved).tolist():
                    solved[row] = template.format(*numbers[row])
                    unsolved[row] = False
    return solved


def _pairs(columns: list[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Every way to merge (template, values (B,)) columns down to two; NaN where a step leaves the whole numbers."""
    if len(columns) == 2:
        yield columns
        return
    for i in range(len(columns)):
        for j in range(i + 1, len(columns)):
            rest = [column for k, column in enumerate(columns) if k not in (i, j)]
            for merged in _merge(*columns[i], *columns[j]):
                yield from _pairs([*rest, merged])


def _merge(a: str, x: np.ndarray, b: str, y: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield f"({a} + {b})", x + y
    yield f"({a} * {b})", x * y
    for (left, u), (right, v) in (((a, x), (b, y)), ((b, y), (a, x))):
        yield f"({left} - {right})", np.where(u >= v, u - v, np.nan)
        yield f"({left} / {right})", np.where((v > 0) & (np.mod(u, v) == 0), u / v, np.nan)


def _last_steps(a: str, x: np.ndarray, b: str, y: np.ndarray, targets: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(template, where it hits the target (B,) bool) for each last step; cheaper than making values and comparing."""
    yield f"{a} + {b}", x + y == targets
    yield f"{a} * {b}", x * y == targets
    for left, u, right, v in ((a, x, b, y), (b, y, a, x)):
        yield f"{left} - {right}", u - v == targets
        yield f"{left} / {right}", (u == targets * v) & (v > 0)


# --- reward -----------------------------------------------------------------------------------------------------------


def countdown_answer(response: str) -> str | None:
    """The text of the last <answer> of the last line of a response, None where there is none."""
    last_line = response.rstrip().rpartition("\n")[2]
    answers = re.findall(r"<answer>(.*?)</answer>", last_line[-TAIL:])
    return answers[-1].strip() if answers else None


def countdown_reward(response: str, numbers: Sequence[int], target: int) -> float:
    """1.0, 0.1 or 0.0, as the module's docstring says."""
    expression = countdown_answer(response)
    if expression is None:
        return 0.0
    try:
        used, value = evaluate(_solution(expression, target))
    except (ValueError, ZeroDivisionError):
        return 0.1
    return 1.0 if sorted(used) == sorted(numbers) and abs(value - target) < TOLERANCE else 0.1


def _solution(answer: str, target: int) -> str:
    """The expression of an answer in the parser's signs, without "= target" behind it."""
    if len(answer) > MAX_EXPRESSION:
        raise ValueError(f"longer than {MAX_EXPRESSION} characters")
    for sign, ours in SIGNS.items():
        answer = answer.replace(sign, ours)
    return re.sub(rf"\s*=\s*{target}$", "", answer)


def evaluate(expression: str) -> tuple[list[int], Fraction]:
    """The integers in an expression of + - * / and brackets, in order, and its exact value.

    A unary minus or plus is allowed, as in TinyZero: wherever one leads to a positive target, so does some expression
    without (swap the sides of a subtraction; leave the plus out), so neither makes a puzzle easier; the digits under it
    count as the number they are.
    ValueError: anything else, or beyond the limits on length, depth and digits. ZeroDivisionError: as it says.
    """
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"longer than {MAX_EXPRESSION} characters")
    # ASCII only: Python would read other scripts' digits, and 1_0
    if not re.fullmatch(r"[0-9+\-*/() \t]+", expression):
        raise ValueError("a character that is no integer, + - * / or bracket")
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", expression):
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    try:
        with _PARSING:
            tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"not an expression: {error.msg}") from error
    used: list[int] = []
    return used, _value(tree.body, used, MAX_DEPTH)


def _value(node: ast.expr, used: list[int], depth: int) -> Fraction:
    if depth == 0:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=int(number)):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, used, depth - 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, used, depth - 1)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=right):
            a, b = _value(left, used, depth - 1), _value(right, used, depth - 1)
            if isinstance(op, ast.Add):
                return a + b
            if isinstance(op, ast.Sub):
                return a - b
            return a * b if isinstance(op, ast.Mult) else a / b
    raise ValueError(f"{type(node).__name__} is not allowed")


# --- the benchmark ----------------------------------------------------------------------------------------------------


def countdown_problem(item: CountdownItem, identity: str) -> Problem:
    """An item in TinyZero's words."""
    question = (
        f"Using the numbers {list(item.numbers)}, create an equation that equals {item.target}. You can use basic "
        "arithmetic operations (+, -, *, /) and each number can only be used once."
    )
    metadata = {"numbers": list(item.numbers), "target": item.target}
    if item.solution:
        metadata["solution"] = item.solution
    return Problem(identity, question, str(item.target), "countdown", metadata=metadata)


def parse_countdown(row: Row, index: int) -> Problem:
    """A row with `nums` or `numbers`, and `target`. The source gives no solution.

    ValueError if the numbers are no list of integers, or there is no target.
    """
    numbers = row.get("nums", row.get("numbers"))
    if not isinstance(numbers, list) or not numbers or not all(type(number) is int for number in numbers):
        raise ValueError("'nums' is not a list of integers")
    target = int(text_field(row, "target"))
    return countdown_problem(CountdownItem(tuple(numbers), target, ""), id_field(row, f"countdown-{index}"))


def select_countdown(rows: Sequence[Row], split: str) -> list[Row]:
    """Of the hub's rows (one split, three or four numbers) the distinct ones with four: 512 for test, then train."""
    distinct: dict[tuple, Row] = {}
    for row in rows:
        if len(row["nums"]) == 4:
            distinct.setdefault((row["target"], *sorted(row["nums"])), row)
    kept = list(distinct.values())
    return kept[:TEST_SIZE] if split == "test" else kept[TEST_SIZE : TEST_SIZE + TRAIN_SIZE]


def _generate(split: str) -> Generated:
    if split == "test":
        items = generate_countdown(TEST_SIZE, seed=POOL_SEED)
    else:
        items = generate_countdown(TEST_SIZE + TRAIN_SIZE, seed=POOL_SEED)[TEST_SIZE:]
    return Generated(
        len(items),
        lambda index: countdown_problem(items[index], f"countdown-{split}-{index}"),
        f"generate_countdown(seed={POOL_SEED})",
    )


_HUB = HubFile(
    "Jiayi-Pan/Countdown-Tasks-3to4", "408f70d177020686d34a56bba5952feb45aaaee4", "data/train-00000-of-00001.parquet"
)

TASKS = (
    Task(
        "countdown",
        parse_countdown,
        files={"test": "countdown_test.jsonl", "train": "countdown_train.jsonl"},
        hub={"test": _HUB, "train": _HUB},
        select=select_countdown,
        generate=_generate,
    ),
)
