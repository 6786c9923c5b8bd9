"""Credit by the puzzle's grammar: what a worked solution decides, by hand."""

from types import SimpleNamespace

import pytest
import torch

from training.countdown.controls import chosen, decisions, weights_of


def words(line):
    return line.split()


SOLUTION = words("3 * 7 = 21 , 21 - 8 = 13 no 8 * 3 = 24 , 24 - 7 = 17 yes <answer> ( 8 * 3 ) - 7 </answer>")


def test_what_each_try_decides():
    assert [[SOLUTION[p] for p in own] for own in decisions(SOLUTION)] == [
        ["3", "*", "7", "21", "-", "8"],
        ["8", "*", "3", "24", "-", "7"],
    ]


def test_the_last_try_and_what_is_outside():
    assert [SOLUTION[p] for p in chosen("last_try", SOLUTION)] == ["8", "*", "3", "24", "-", "7"]
    outside = [SOLUTION[p] for p in chosen("outside", SOLUTION)]
    assert outside[:6] == ["=", "21", ",", "=", "13", "no"]
    assert outside[-9:] == SOLUTION[-9:]  # the answer is copied
    assert len(outside) + 12 == len(SOLUTION)


def test_a_response_that_was_cut_off_or_says_nothing():
    assert [SOLUTION[p] for p in chosen("last_try", SOLUTION[:15])] == ["8", "*", "3"]
    assert chosen("last_try", ["yes", "<answer>"]) == []
    assert chosen("last_try", []) == []
    assert decisions(words("3 3 3 3 =")) == [[0, 1, 2]]  # no more than a step has
    assert decisions(words("3 = 5 7")) == [[0]]  # what is told decides nothing


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="last_try"):
        chosen("middle", SOLUTION)


def test_weights_of_a_rollout():
    vocabulary = list(dict.fromkeys([*SOLUTION, "prompt"]))
    rows = torch.tensor([[vocabulary.index(word) for word in words("prompt 8 * 3 = 24 yes")]])
    rollout = SimpleNamespace(input_ids=rows, response=torch.arange(7)[None] >= 1)
    gamma = weights_of("last_try", lambda own: [vocabulary[i] for i in own], 4.0)(rollout, [])
    assert gamma.tolist() == [[1, 4, 4, 4, 1, 1, 1]]
