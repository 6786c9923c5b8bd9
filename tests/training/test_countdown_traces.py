"""Puzzles, their solver, and the worked solutions that the policy learns from."""

import random

import pytest

from attention_rhythm.tasks.countdown import evaluate
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.puzzles import (
    HELD_OUT,
    MAX_VALUE,
    NUMBER_RANGE,
    SPLITS,
    TARGET_RANGE,
    Puzzle,
    Step,
    load_puzzles,
    problem,
    puzzles,
    solutions,
    ways,
)
from training.countdown_traces import FOUND, TRY_AGAIN, TraceConfig, expression, write_trace


def test_two_numbers_combine_in_every_way_the_larger_on_the_left():
    assert ways((3, 12)) == (
        (Step(12, "+", 3, 15),),
        (Step(12, "-", 3, 9),),
        (Step(12, "*", 3, 36),),
        (Step(12, "/", 3, 4),),
    )


def test_no_step_divides_by_zero_or_unevenly_or_leaves_the_range():
    assert {way[0].operator for way in ways((0, 5))} == {"+", "-", "*"}
    assert {way[0].operator for way in ways((3, 5))} == {"+", "-", "*"}
    assert {way[0].operator for way in ways((20, 30))} == {"+", "-"}
    assert all(0 <= step.value <= MAX_VALUE for way in ways((9, 13, 15)) for step in way)


def test_the_solver_finds_every_solution():
    found = solutions(Puzzle((3, 7, 8), 29))
    assert sorted(expression((3, 7, 8), way) for way in found) == ["( 7 * 3 ) + 8"]
    assert {expression((2, 2, 12), way) for way in solutions(Puzzle((2, 2, 12), 12))} == {
        "( 12 + 2 ) - 2",
        "( 12 - 2 ) + 2",
        "( 12 * 2 ) / 2",
        "( 12 / 2 ) * 2",
        "12 * ( 2 / 2 )",
        "12 / ( 2 / 2 )",
        "12 + ( 2 - 2 )",
        "12 - ( 2 - 2 )",
    }


def test_an_unsolvable_puzzle_has_no_solution_and_no_trace():
    puzzle = Puzzle((1, 1, 1), 60)
    assert solutions(puzzle) == []
    with pytest.raises(ValueError, match="no solution"):
        write_trace(puzzle, random.Random(0))


def test_an_expression_puts_each_step_in_brackets_even_where_values_repeat():
    way = (Step(7, "+", 3, 10), Step(10, "+", 10, 20))
    text = expression((3, 7, 10), way)
    used, value = evaluate(text)
    assert (sorted(used), value) == ([3, 7, 10], 20)


def test_the_splits_are_disjoint_and_every_puzzle_is_solvable_and_in_range():
    dealt = {split: puzzles(split) for split in SPLITS}
    everything = [puzzle for split in SPLITS for puzzle in dealt[split]]
    assert len(dealt["test"]) == len(dealt["dev"]) == HELD_OUT < len(dealt["train"])
    assert len(set(everything)) == len(everything)
    assert all(solutions(puzzle) for puzzle in everything)
    assert all(NUMBER_RANGE[0] <= number <= NUMBER_RANGE[1] for puzzle in everything for number in puzzle.numbers)
    assert all(TARGET_RANGE[0] <= puzzle.target <= TARGET_RANGE[1] for puzzle in everything)


def test_the_deal_is_always_the_same():
    dealt = puzzles("train")
    puzzles.cache_clear()
    assert puzzles("train") == dealt
    with pytest.raises(ValueError, match="no split 'validation'"):
        puzzles("validation")


def test_problems_carry_what_the_grader_needs():
    first, second = load_puzzles("dev", 2)
    assert first.task == "countdown"
    assert first.id != second.id
    puzzle = puzzles("dev")[0]
    assert first.metadata["numbers"] == list(puzzle.numbers)
    assert first.metadata["target"] == puzzle.target
    assert first.question == f"{' '.join(map(str, puzzle.numbers))} -> {puzzle.target}"


CAREFUL = TraceConfig(careless=0)


def test_careful_traces_end_with_a_correct_answer_after_wrong_tries_only():
    rng = random.Random(0)
    for puzzle in puzzles("train")[:300]:
        trace = write_trace(puzzle, rng, CAREFUL)
        assert grade(problem(puzzle, ""), trace).correct
        *wrong, last = trace.split(f" {TRY_AGAIN} ")
        right, answer = last.split(f" {FOUND} ")
        assert all(_values(text)[-1] != puzzle.target for text in wrong)
        assert _values(right)[-1] == puzzle.target
        assert len(set(wrong)) == len(wrong)
        assert answer.startswith("<answer> ")


def test_careless_traces_answer_with_a_wrong_try_that_is_otherwise_sound():
    rng = random.Random(0)
    careless = TraceConfig(max_wrong=3, careless=1.0)
    for puzzle in puzzles("train")[:100]:
        trace = write_trace(puzzle, rng, careless)
        tried, answer = trace.split(f" {FOUND} ")
        answer = answer.removeprefix("<answer> ").removesuffix(" </answer>")
        assert TRY_AGAIN not in tried.split()
        used, value = evaluate(answer)
        assert sorted(used) == list(puzzle.numbers)
        assert value == _values(tried)[-1]
        assert grade(problem(puzzle, ""), trace).correct == (value == puzzle.target)


def _values(text: str) -> list[int]:
    """What each step of a try is worth, after checking its sum."""
    values = []
    for step in text.split(" , "):
        left, right = step.split(" = ")
        assert evaluate(left)[1] == int(right)
        values.append(int(right))
    return values


def test_the_number_of_wrong_tries_is_as_configured():
    puzzle = puzzles("train")[0]
    rng = random.Random(0)
    assert TRY_AGAIN not in write_trace(puzzle, rng, TraceConfig(max_wrong=0, careless=0)).split()
    config = TraceConfig(max_wrong=3, careless=0)
    assert {write_trace(puzzle, rng, config).split().count(TRY_AGAIN) for _ in range(200)} == {0, 1, 2, 3}


def test_a_trace_depends_on_its_seed_alone():
    puzzle = puzzles("train")[1]
    assert write_trace(puzzle, random.Random(5)) == write_trace(puzzle, random.Random(5))
    assert len({write_trace(puzzle, random.Random(seed)) for seed in range(20)}) > 1
