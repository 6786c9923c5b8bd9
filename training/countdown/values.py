"""What perfect knowledge of the tokens could bring: credit, and advantages, from measured values of prefixes.

A response is cut into segments, each a step of a try or what stands between two of them. The value of a prefix that
ends with a segment is the share of its K continuations that are right (attention_rhythm/token_value.py). Two uses:

    value_credit  gamma = amplification on the tokens of the segments whose value change |dV| is largest: 40% of them
    vine          dV itself as the advantage of a segment's tokens (VinePPO, arXiv 2410.01679), in units of its standard
                  deviation over the tokens of the batch

A ceiling, no method: a step costs some ten times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attention_rhythm.credit import CreditConfig, top_q
from attention_rhythm.generation.base import Generator, Prefix
from attention_rhythm.tasks.base import Problem
from training.actors.infer import Rollout
from training.countdown.controls import STEP
from training.countdown_traces import FOUND, TRY_AGAIN

AT_ONCE = 1024  # continuations in one batch
EPSILON = 1e-6  # added to a standard deviation


class Values:
    """Values of the prefixes of a rollout's responses, by continuing each K times.

    Args:
        generator: of the policy that is trained.
        words_of, text_of: of token ids, one word for each, and the text that is graded.
        right: whether a problem's response is right.
        limit: most tokens of a response.
        samples: K.
        seed: of the continuations; each step of a run continues other responses.
    """

    def __init__(
        self,
        generator: Generator,
        words_of: Callable[[list[int]], list[str]],
        text_of: Callable[[list[int]], str],
        right: Callable[[Problem, str], float],
        *,
        limit: int,
        samples: int = 8,
        seed: int = 0,
    ):
        self.generator, self.words_of, self.text_of, self.right = generator, words_of, text_of, right
        self.limit, self.samples, self.seed = limit, samples, seed

    def changes(self, rollout: Rollout, problems: Sequence[Problem]) -> Float[Tensor, "B N"]:
        """dV of the segment of each response token; 0 elsewhere. problems: of each row."""
        texts, starts, ends = [], [], []
        for ids, mask, response in zip(rollout.input_ids, rollout.attention, rollout.response, strict=True):
            length = int(mask.sum())
            texts.append(ids[:length].tolist())
            starts.append(length - int(response.sum()))
            ends.append(segment_ends(self.words_of(texts[-1][starts[-1] :])))
        changes = torch.zeros(rollout.response.shape, dtype=torch.float32)
        asked = [(row, end) for row, own in enumerate(ends) for end in (0, *own[:-1])]
        values = self._values(texts, starts, asked, problems)
        for row, own in enumerate(ends):
            outcome = self.right(problems[row], self.text_of(texts[row][starts[row] :]))
            for first, last in pairwise((0, *own)):
                after = outcome if last == own[-1] else values[row, last]
                changes[row, starts[row] + first : starts[row] + last] = after - values[row, first]
        return changes.to(rollout.response.device)

    def _values(
        self,
        texts: Sequence[list[int]],
        starts: Sequence[int],
        asked: Sequence[tuple[int, int]],
        problems: Sequence[Problem],
    ) -> dict[tuple[int, int], float]:
        """For each (row, tokens of its response) the share of continuations that are right; equal beginnings once."""
        first_of: dict[tuple[int, ...], tuple[int, int]] = {}
        same = {
            (row, end): first_of.setdefault(tuple(texts[row][: starts[row] + end]), (row, end)) for row, end in asked
        }
        wanted, at_once, found = list(first_of.values()), max(AT_ONCE // self.samples, 1), {}
        for start in range(0, len(wanted), at_once):
            few = wanted[start : start + at_once]
            prefixes = [
                Prefix(row, starts[row] + end - 1, texts[row][starts[row] + end - 1], self.limit - end)
                for row, end in few
            ]
            continued = self.generator.continue_prefixes(texts, prefixes, self.samples, self.seed)
            for (row, end), rows in zip(few, continued, strict=True):
                written = [self.text_of([*texts[row][starts[row] : starts[row] + end], *tokens]) for tokens in rows]
                right = {text: self.right(problems[row], text) for text in set(written)}
                found[row, end] = float(np.mean([right[text] for text in written]))
        return {place: found[first] for place, first in same.items()}

    def weights(self, amplification: float, quantile: float) -> Callable[..., Float[Tensor, "B N"]]:
        """gamma of a rollout's tokens, for `training.loop.train`: amplified where |dV| is largest."""
        config = CreditConfig(strategy="entropy", quantile=quantile)  # of TopQ, its share is all that is read

        def gamma(rollout: Rollout, problems: Sequence[Problem]) -> Float[Tensor, "B N"]:
            size = torch.where(rollout.response, self.changes(rollout, problems).abs(), float("nan"))
            return 1 + (amplification - 1) * top_q(rollout.response, size, config).float()

        return gamma

    def advantages(self, rollout: Rollout, problems: Sequence[Problem]) -> Float[Tensor, "B N"]:
        """dV of each token's segment over its standard deviation, for `training.loop.train`."""
        changes = self.changes(rollout, problems)
        return changes / (changes[rollout.response].std() + EPSILON)


def segment_ends(words: Sequence[str]) -> list[int]:
    """How many words of a response its first segment has, its first two, and so on; the last is all of them."""
    ends = [place + 1 for place, word in enumerate(words) if word in (STEP, TRY_AGAIN, FOUND)]
    return [*ends, len(words)] if not ends or ends[-1] != len(words) else ends
