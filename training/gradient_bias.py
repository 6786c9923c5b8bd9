"""Does a weight on the advantage bend the policy gradient? Two choices, enumerated exactly.

With gamma_t on the advantage of the token a that was drawn in state s, the expected update of the logits of s is

    sum_a p(a|s) gamma(s, a) (Q(s, a) - b) (e_a - p(.|s)).

If gamma hangs on s alone, it is gamma(s) times the true gradient whatever the baseline b is, since the mean of e_a - p
is 0. If it hangs on a, or on what follows, b matters: with Q(s, a) = V(s) for all a there is nothing to be learned in
s, and the update is still (V(s) - b) sum_a p(a|s) gamma(s, a) (e_a - p): the amplified tokens become more likely after
good beginnings and less likely after bad ones. GRPO's b is the mean reward of the prompt's group, not V(s).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class TwoSteps:
    """A first choice a of two, then a second b of two."""

    first: Array  # (2,) logits
    second: Array  # (2, 2) logits after a
    reward: Array  # (2, 2) of (a, b)

    @property
    def chances(self) -> tuple[Array, Array]:
        """p(a), (2,), and p(b | a), (2, 2)."""
        return _softmax(self.first), _softmax(self.second)

    @property
    def values(self) -> tuple[float, Array]:
        """V of the beginning, and V after a, (2,)."""
        p, q = self.chances
        after = (q * self.reward).sum(1)
        return float(p @ after), after


def expected_update(
    problem: TwoSteps, gamma_first: Array, gamma_second: Array, *, centred: bool = False
) -> tuple[Array, Array]:
    """The mean over all responses of gamma_t A_t d log p / d logits: for the first choice (2,), and the second (2, 2).

    Args:
        gamma_first: (2, 2), gamma of the first choice by (a, b): it may hang on what follows.
        gamma_second: (2, 2), gamma of the second choice b after a.
        centred: A_t = reward - V(state), the value of the state in which the token is drawn, in the place of reward
            minus the mean reward of the prompt.
    """
    p, q = problem.chances
    start, after = problem.values
    first, second = np.zeros(2), np.zeros((2, 2))
    for a in range(2):
        for b in range(2):
            chance = p[a] * q[a, b]
            advantage = problem.reward[a, b] - start
            first += chance * gamma_first[a, b] * advantage * (_one(a) - p)
            own = problem.reward[a, b] - after[a] if centred else advantage
            second[a] += chance * gamma_second[a, b] * own * (_one(b) - q[a])
    return first, second


def true_gradient(problem: TwoSteps) -> tuple[Array, Array]:
    """d E[reward] / d logits of the first choice (2,) and of the second (2, 2)."""
    return expected_update(problem, np.ones((2, 2)), np.ones((2, 2)))


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _one(index: int) -> Array:
    return np.eye(2)[index]
