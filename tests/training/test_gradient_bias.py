"""The bias of weights that hang on the token that was drawn: two choices, exactly."""

import numpy as np
import pytest

from training.gradient_bias import TwoSteps, expected_update, true_gradient

ONES = np.ones((2, 2))
# After the first choice 0 all is right, after 1 all is wrong: the second choice does not matter.
DECIDED = TwoSteps(np.zeros(2), np.array([[0.0, 1.0], [0.5, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]]))
MIXED = TwoSteps(np.array([0.2, -0.3]), np.array([[0.0, 1.0], [0.5, 0.0]]), np.array([[1.0, 0.0], [0.3, 0.6]]))


def test_the_gradient_is_that_of_the_expected_reward():
    step = 1e-6
    first, second = true_gradient(MIXED)
    for index in range(2):
        moved = TwoSteps(MIXED.first + step * np.eye(2)[index], MIXED.second, MIXED.reward)
        assert (moved.values[0] - MIXED.values[0]) / step == pytest.approx(first[index], abs=1e-5)
        logits = MIXED.second.copy()
        logits[0, index] += step
        moved = TwoSteps(MIXED.first, logits, MIXED.reward)
        assert (moved.values[0] - MIXED.values[0]) / step == pytest.approx(second[0, index], abs=1e-5)


def test_where_nothing_is_to_be_learned_nothing_moves():
    assert true_gradient(DECIDED)[1] == pytest.approx(np.zeros((2, 2)))


def test_a_weight_on_the_drawn_token_moves_what_does_not_matter():
    gamma = np.array([[1.0, 4.0], [1.0, 4.0]])  # choice 1 is amplified, wherever it is drawn
    _, second = expected_update(DECIDED, ONES, gamma)
    assert second[0, 1] > 0.01  # more of it after a good beginning
    assert second[1, 1] < -0.01  # less after a bad one
    q = DECIDED.chances[1][0]
    by_hand = 0.5 * 0.5 * q[0] * q[1] * (4 - 1)  # p(a) (V - b) p(0) p(1) (gamma_1 - gamma_0)
    assert second[0, 1] == pytest.approx(by_hand)


@pytest.mark.parametrize("problem", [DECIDED, MIXED])
def test_a_weight_on_the_state_keeps_the_direction(problem):
    gamma = np.array([[4.0, 4.0], [1.5, 1.5]])
    _, second = expected_update(problem, ONES, gamma)
    assert second == pytest.approx(gamma * true_gradient(problem)[1])


def test_an_advantage_centred_at_the_state_moves_nothing_that_does_not_matter():
    gamma = np.array([[1.0, 4.0], [1.0, 4.0]])
    assert expected_update(DECIDED, ONES, gamma, centred=True)[1] == pytest.approx(np.zeros((2, 2)))
    _, second = expected_update(MIXED, ONES, gamma, centred=True)
    assert (np.sign(second) == np.sign(true_gradient(MIXED)[1])).all()  # the direction stays; its size may change


def test_a_weight_on_what_follows_bends_too():
    gamma = np.array([[4.0, 1.0], [1.0, 4.0]])  # of the first choice, by what comes after it
    first, _ = expected_update(MIXED, gamma, ONES)
    assert np.sign(first[0]) != np.sign(true_gradient(MIXED)[0][0])
