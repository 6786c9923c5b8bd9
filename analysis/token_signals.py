"""Signals of every token of a response, to be scored against token values: the paper's, their controls, and others'.

To add one: a function from a `Reading` to (n,), and its line in SIGNALS (docs/extending.md).

Three come from other papers, after their descriptions; none of the three papers' code was used:

- `attention_flow` (FlowTracer, arXiv 2606.10646): the flow through a token from the prompt to the answer, on the graph
  whose edges are attention weights;
- `answer_gradient` (OAR-G, arXiv 2601.07408): the length of the gradient of the answer's log-probability by the token's
  embedding;
- `masking` (arXiv 2602.09331): how much less likely the answer is with the token's part of the text masked. The answer
  is the response's own, right or wrong, in all three: that is what can be had without the gold answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from analysis.read_signals import Horizons, signals_of
from attention_rhythm.credit import CreditConfig, credit_weights, waad_change
from attention_rhythm.signals import dense
from attention_rhythm.signals.architecture import attention_layers
from attention_rhythm.signals.reading import SignalConfig, mean_over

MASKED_AT_ONCE = 8  # copies of a response in one pass


@dataclass(frozen=True, eq=False)
class Reading:
    """A response of n tokens as its policy reads it."""

    model: PreTrainedModel
    ids: Tensor  # (N,) prompt and response
    start: int  # tokens of the prompt
    arrays: dict[str, np.ndarray]  # what `analysis.read_signals.read` gave of it
    horizons: Horizons
    training: SignalConfig  # as training reads the signals: middle layers, its horizon
    receivers: np.ndarray  # (L, H) bool, receiver heads
    answer: slice | None  # the tokens of the answer within the response; None: it gives none
    parts: tuple[slice, ...]  # of the text, in the response's tokens
    mask: int  # the token that stands for a masked one
    seed: int  # of the random signal

    @property
    def length(self) -> int:
        """n, tokens of the response."""
        return len(self.ids) - self.start

    def signals(self, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
        """WAAD and FAI, (n,) each, under changes of `training`."""
        waad, fai = signals_of(self.arrays, replace(self.training, **changes), horizons=self.horizons)
        return waad.numpy(), fai.numpy()

    @cached_property
    def graph(self) -> Float[np.ndarray, "N N"]:
        """Attention from t (rows) to s, in the mean over all layers and heads, without the diagonal."""
        ids = self.ids[None]
        layers = attention_layers(self.model)
        maps = dense.attention_maps(self.model, ids, torch.ones_like(ids, dtype=torch.bool), layers)
        return np.tril(maps[0].mean((0, 1)).double().cpu().numpy(), -1)


Signal = Callable[[Reading], np.ndarray]
ALL_LAYERS = {"layers": "all", "num_layers": None}

# --------------------------------------------------------------------------------------- the answer's


def attention_flow(reading: Reading) -> np.ndarray:
    """Flow through each token (n,), of one unit that enters at the prompt's tokens alike and ends in the answer's.

    Of what leaves a token each later one gets its attention weight, times what of it can still reach the answer.
    """
    if reading.answer is None:
        return np.full(reading.length, np.nan)
    weights, start = reading.graph, reading.start
    first, end = start + reading.answer.start, start + reading.answer.stop
    reach = np.zeros(len(weights))  # share of a token's influence that gets to the answer
    reach[first:end] = 1.0
    for s in reversed(range(first)):
        reach[s] = weights[s + 1 : end, s] @ reach[s + 1 : end]
    flow = np.zeros(len(weights))
    flow[:start] = 1 / start
    for s in range(first):
        if reach[s] > 0:
            flow[s + 1 : end] += flow[s] * weights[s + 1 : end, s] * reach[s + 1 : end] / reach[s]
    return flow[start:]


@torch.enable_grad()
def answer_gradient(reading: Reading) -> np.ndarray:
    """Length of d log p(answer) / d embedding of each token, (n,), in nats per unit of the embedding."""
    if reading.answer is None:
        return np.full(reading.length, np.nan)
    embeddings = reading.model.get_input_embeddings()(reading.ids[None]).detach().requires_grad_()  # (1, N, D)
    (gradient,) = torch.autograd.grad(_answer_logprob(reading, inputs_embeds=embeddings).sum(), embeddings)
    return gradient[0, reading.start :].float().norm(dim=-1).cpu().numpy()


@torch.no_grad()
def masking(reading: Reading) -> np.ndarray:
    """By how many nats the answer is less likely with the part of the text that a token is in masked, (n,).

    Undefined from the answer on.
    """
    drop = np.full(reading.length, np.nan)
    if reading.answer is None:
        return drop
    parts = [part for part in reading.parts if part.stop <= reading.answer.start]
    rows = reading.ids.repeat(len(parts) + 1, 1)  # the last is whole
    for row, part in zip(rows, parts, strict=False):
        row[reading.start + part.start : reading.start + part.stop] = reading.mask
    logprob = torch.cat([_answer_logprob(reading, input_ids=few) for few in rows.split(MASKED_AT_ONCE)]).cpu().numpy()
    for part, masked in zip(parts, logprob, strict=False):
        drop[part] = logprob[-1] - masked
    return drop


def _answer_logprob(reading: Reading, **inputs: Tensor) -> Float[Tensor, "B"]:
    """log p(answer | what is before it) in nats, for each row of the inputs."""
    assert reading.answer is not None
    own = torch.arange(reading.start + reading.answer.start, reading.start + reading.answer.stop)
    own = own.to(reading.ids.device)
    logits = reading.model(**inputs, use_cache=False, logits_to_keep=own - 1).logits.float()  # (B, answer, V)
    answer = reading.ids[own].expand(len(logits), -1)
    return logits.log_softmax(-1).gather(-1, answer[..., None])[..., 0].sum(1)


# ------------------------------------------------------------------------------------------- the list


def change(waad: np.ndarray) -> np.ndarray:
    """Delta of Eq. 14, (n,) tokens."""
    return waad_change(torch.from_numpy(waad)[None])[0].numpy()


def receiver_fai(reading: Reading) -> np.ndarray:
    """FAI of the receiver heads, (n,)."""
    name = next(name for name, bounds in reading.horizons.items() if bounds == reading.training.horizon)
    return mean_over(torch.from_numpy(reading.arrays[name]), torch.from_numpy(reading.receivers)).numpy()


SIGNALS: dict[str, Signal] = {
    "random": lambda r: np.random.default_rng(r.seed).random(r.length),
    "early": lambda r: -np.arange(r.length, dtype=float),
    "late": lambda r: np.arange(r.length, dtype=float),
    "entropy": lambda r: r.arrays["entropy"],
    "surprisal": lambda r: -r.arrays["logprob"],
    "waad": lambda r: r.signals()[0],
    "waad_change": lambda r: change(r.signals()[0]),
    "fai": lambda r: r.signals()[1],
    "waad_all_layers": lambda r: r.signals(**ALL_LAYERS)[0],
    "fai_all_layers": lambda r: r.signals(**ALL_LAYERS)[1],
    "receiver_fai": receiver_fai,
    "attention_flow": attention_flow,
    "answer_gradient": answer_gradient,
    "masking": masking,
}

STRATEGIES = ("local_chunk", "global_anchor", "coupled_rhythm")
READINGS = {  # of WAAD and FAI, for credit; the first is training's
    "": {},
    "_row_before": {"row": "predictor"},
    "_all_layers": ALL_LAYERS,
    "_all_layers_row_before": {**ALL_LAYERS, "row": "predictor"},
}
CREDITS = tuple(f"{strategy}{reading}" for strategy in STRATEGIES for reading in READINGS)


def signals_table(reading: Reading) -> dict[str, np.ndarray]:
    """Every signal of a response, (n,) float32; of a credit strategy (gamma - 1) / (gamma_amp - 1)."""
    table = {name: signal(reading) for name, signal in SIGNALS.items()}
    whole = torch.ones(1, reading.length, dtype=torch.bool)
    for strategy in STRATEGIES:
        config = CreditConfig(strategy=strategy)
        for name, changes in READINGS.items():
            waad, fai = (torch.from_numpy(x)[None] for x in reading.signals(**changes))
            gamma = credit_weights(whole, config, waad=waad, fai=fai)[0].numpy()
            table[f"{strategy}{name}"] = (gamma - 1) / (config.amplification - 1)
    return {name: np.asarray(values, dtype=np.float32) for name, values in table.items()}


def parts_of(begins: np.ndarray) -> tuple[slice, ...]:
    """The parts of a text whose first tokens are marked, (n,) bool; the first token begins one."""
    edges = [0, *np.flatnonzero(begins[1:]) + 1, len(begins)]
    return tuple(slice(int(first), int(end)) for first, end in pairwise(edges))
