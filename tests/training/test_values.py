"""Values of segments as credit and as advantages, by hand."""

from types import SimpleNamespace

import pytest
import torch

from training.countdown.values import Values, segment_ends

WORDS = ["<pad>", "ask", "a", "b", ",", "no", "yes"]
PAD, ASK, A, B, STEP, NO, YES = range(7)


def test_segments_end_with_a_step_or_a_try():
    assert segment_ends(["3", "=", "3", ",", "4", "no", "5"]) == [4, 6, 7]
    assert segment_ends(["3", "yes"]) == [2]
    assert segment_ends(["3"]) == [1]


class Fixed:
    """Continues every prefix that ends in `a ,` with yes, others with no; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def continue_prefixes(self, texts, prefixes, samples, seed):
        found = []
        for prefix in prefixes:
            before = [*texts[prefix.text][: prefix.visible], prefix.first]
            self.asked.append(before)
            good = before[-2:] == [A, STEP]
            # half of what follows the prompt is right
            found.append([[YES] if good or (before == [ASK] and n % 2) else [NO] for n in range(samples)])
        return found


@pytest.fixture
def values():
    rollout = SimpleNamespace(
        input_ids=torch.tensor([[ASK, A, STEP, A, YES], [ASK, B, STEP, NO, PAD]]),
        attention=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool(),
        response=torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0]]).bool(),
    )
    generator = Fixed()
    own = Values(
        generator,
        lambda ids: [WORDS[i] for i in ids],
        lambda ids: " ".join(WORDS[i] for i in ids),
        lambda _, text: float(text.endswith("yes")),
        limit=4,
        samples=8,
    )
    return own, rollout, generator


def test_changes_by_hand(values):
    own, rollout, generator = values
    # V of the prompt is 1/2, after `a ,` 1, after `b ,` 0; the outcomes are right and wrong
    expected = [[0, 0.5, 0.5, 0, 0], [0, -0.5, -0.5, 0, 0]]
    assert own.changes(rollout, [None, None]).tolist() == expected
    assert generator.asked == [[ASK], [ASK, A, STEP], [ASK, B, STEP]]  # the prompt once


def test_credit_goes_where_the_value_changes(values):
    own, rollout, _ = values
    gamma = own.weights(4.0, 0.4)(rollout, [None, None])
    assert gamma.tolist() == [[1, 4, 4, 1, 1], [1, 4, 4, 1, 1]]  # ceil(0.4 * 4) and ceil(0.4 * 3)


def test_advantages_are_the_changes_in_their_spread(values):
    own, rollout, _ = values
    found = own.advantages(rollout, [None, None])
    spread = torch.tensor([0.5, 0.5, 0, 0, -0.5, -0.5, 0]).std()
    torch.testing.assert_close(found, torch.tensor([[0, 0.5, 0.5, 0, 0], [0, -0.5, -0.5, 0, 0]]) / (spread + 1e-6))
