"""Controls of the embedded experiment: credit by the grammar of a worked solution, which no real model has.

A response is a line of words, one token each:

    3 * 7 = 21 , 21 - 8 = 13 no 8 * 3 = 24 , 24 - 7 = 17 yes <answer> ( 8 * 3 ) - 7 </answer>

A try ends at `no` or `yes`; its steps are set apart by commas. What is decided in a step are its two numbers and its
operator; what follows `=` is worked out, and the answer is copied from the last try.

    last_try  the decisions of the last try: what the grade hangs on. Known to help: the positive control
    outside   every token that is no decision: the negative control
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attention_rhythm.tasks.base import Problem
from training.actors.infer import Rollout
from training.countdown_traces import ANSWER_OPEN, FOUND, TRY_AGAIN

CONTROLS = ("last_try", "outside")
STEP, EQUALS = ",", "="
DECIDED = 3  # words of a step before `=`: number, operator, number


def decisions(words: Sequence[str]) -> list[list[int]]:
    """The positions of what each try of a response decides, try by try; a try without decisions is left out."""
    tries: list[list[int]] = [[]]
    in_step, told = 0, False  # words of the step so far; whether its result is being told
    for position, word in enumerate(words):
        if word == ANSWER_OPEN:
            break
        if word in (TRY_AGAIN, FOUND):
            tries.append([])
        if word in (TRY_AGAIN, FOUND, STEP):
            in_step, told = 0, False
        elif word == EQUALS:
            told = True
        elif not told and in_step < DECIDED:
            tries[-1].append(position)
            in_step += 1
    return [own for own in tries if own]


def chosen(control: str, words: Sequence[str]) -> list[int]:
    """The positions that a control amplifies in a response. ValueError: no such control."""
    tries = decisions(words)
    if control == "last_try":
        return tries[-1] if tries else []
    if control == "outside":
        decided = {position for own in tries for position in own}
        return [position for position in range(len(words)) if position not in decided]
    raise ValueError(f"control must be one of {', '.join(CONTROLS)}, not {control!r}")


def weights_of(
    control: str, words_of: Callable[[list[int]], list[str]], amplification: float
) -> Callable[..., Float[Tensor, "B N"]]:
    """gamma of a rollout's tokens by a control: `amplification` where it is chosen, 1 elsewhere.

    words_of: of token ids, one word for each (`tokenizer.convert_ids_to_tokens`).
    """

    def weights(rollout: Rollout, problems: Sequence[Problem]) -> Float[Tensor, "B N"]:
        gamma = torch.ones(rollout.response.shape, device=rollout.response.device)
        for row, (ids, response) in enumerate(zip(rollout.input_ids, rollout.response, strict=True)):
            places = response.nonzero()[:, 0]  # (n,)
            gamma[row, places[chosen(control, words_of(ids[places].tolist()))]] = amplification
        return gamma

    return weights
