"""What reading a model is held to: its own float64 attention maps and logits, each sequence alone and unpadded.

The reference uses nothing of the library but `dense`, the equations of Sec. 4 on maps, which have tests by hand.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.signals import dense
from attention_rhythm.signals.heads import head_sets
from attention_rhythm.signals.reading import SignalConfig, Signals

# (prompt, response) tokens: longer than the zoo's windows; on both sides of where its rotary frequencies change (40)
LENGTHS = ((20, 60), (1, 49), (6, 28))
MATE = (3, 107)  # another sequence in the batch: longer than all of them
CONFIG = SignalConfig(layers="all", num_layers=None)
WINDOW, HORIZON = CONFIG.window, CONFIG.horizon
TOLERANCE = 1e-4  # tokens, for WAAD; nats; of weights, for FAI; of the span, relative


# ------------------------------------------------------------------------------------------------ the reference


@dataclass
class Truth:
    """What a model says of one sequence by itself."""

    logits: Tensor  # (N, V) float64
    maps: dict[int, Tensor] = field(default_factory=dict)  # layer: (H, N, N) float64
    doubt: str = ""  # why the maps are not what Sec. 4 means by attention


def eager_copy(model: PreTrainedModel, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The model in another number format, with attention and experts of plain matrix products."""
    twin = copy.deepcopy(model).to(dtype)
    for module in [twin, *twin.modules()]:
        config = getattr(module, "config", None)
        for own in (config, config.get_text_config() if hasattr(config, "get_text_config") else None):
            if hasattr(own, "_attn_implementation"):
                own._attn_implementation = "eager"
            if hasattr(own, "_experts_implementation"):
                own._experts_implementation = "eager"
    return twin


@torch.no_grad()
def truth(model: PreTrainedModel, tokens: Tensor) -> Truth:
    """What an eager model says of (N,) tokens; maps are what its modules of attention return beside their output."""
    found: dict[int, Tensor] = {}
    doubts: list[str] = []
    n = len(tokens)

    def keep(module: torch.nn.Module, _: Any, out: Any) -> None:
        weights = out[1] if isinstance(out, tuple) and len(out) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4 or weights.shape[-2:] != (n, n):
            return
        layer = getattr(module, "layer_idx", None)
        if layer is None:
            doubts.append(f"{type(module).__name__} has no number")
        elif layer in found:
            doubts.append(f"layer {layer} attends twice")
        else:
            found[layer] = weights[0].double()

    handles = [module.register_forward_hook(keep) for module in model.modules() if "ttention" in type(module).__name__]
    out = model(input_ids=tokens[None], use_cache=False, output_attentions=True)
    for handle in handles:
        handle.remove()
    logits = out[0] if isinstance(out, tuple) else out.logits
    if any(float(maps.triu(1).abs().max()) > 0 for maps in found.values()):
        doubts.append("tokens look ahead")
    return Truth(logits[0].double(), found, "; ".join(sorted(set(doubts))))


@dataclass
class Case:
    """One sequence and what is true of it."""

    tokens: Tensor  # (N,)
    prompt: int
    truth: Truth

    @property
    def response(self) -> Tensor:
        """(N,) bool."""
        return torch.arange(len(self.tokens)) >= self.prompt

    def maps(self, layers: tuple[int, ...]) -> Tensor:
        """(1, L, H, N, N) float64."""
        return torch.stack([self.truth.maps[layer] for layer in layers])[None]

    def log_probabilities(self) -> tuple[Tensor, Tensor]:
        """Entropy and log-probability (nats) of the response tokens that have a token before them."""
        logp = self.truth.logits.log_softmax(-1)  # (N, V)
        rows = torch.arange(max(self.prompt, 1), len(self.tokens)) - 1
        chosen = logp[rows].gather(-1, self.tokens[rows + 1, None])[:, 0]
        return -(logp.exp() * logp).sum(-1)[rows], chosen


def random_tokens(length: int, generator: torch.Generator) -> Tensor:
    """(N,): no special tokens among them."""
    return torch.randint(3, 100, (length,), generator=generator)


def cases(model: PreTrainedModel, seed: int = 0) -> list[Case]:
    """Sequences of random tokens, with what the model says of each in float64."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for prompt, response in LENGTHS:
        tokens = random_tokens(prompt + response, generator)
        found.append(Case(tokens, prompt, truth(eager_copy(model), tokens)))  # a fresh copy: some keep state
    return found


# ----------------------------------------------------------------------------------------------------- batches


@dataclass
class Batch:
    """Several sequences in one array, and where each of them lies."""

    input_ids: Tensor  # (B, N)
    attention: Tensor  # (B, N) bool
    response: Tensor  # (B, N) bool
    starts: list[int]


def batch(sequences: list[Case], side: str, mate: bool = False) -> Batch:
    """Padded on a side; with a longer mate behind the sequences, or none."""
    rows = [(case.tokens, case.prompt) for case in sequences]
    if mate:
        rows.append((random_tokens(sum(MATE), torch.Generator().manual_seed(99)), MATE[0]))
    width = max(len(tokens) for tokens, _ in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention = torch.zeros(len(rows), width, dtype=torch.bool)
    response, starts = attention.clone(), []
    for b, (tokens, prompt) in enumerate(rows):
        start = width - len(tokens) if side == "left" else 0
        input_ids[b, start : start + len(tokens)] = tokens
        attention[b, start : start + len(tokens)] = True
        response[b, start + prompt : start + len(tokens)] = True
        starts.append(start)
    return Batch(input_ids, attention, response, starts)


# ------------------------------------------------------------------------------------------------- comparisons


def off(found: Tensor, expected: Tensor, scale: Tensor | float = 1.0) -> float:
    """The largest difference, over a scale; inf where one is a number and the other is not, or shapes differ."""
    if found.shape != expected.shape or bool((found.isnan() != expected.isnan()).any()):
        return float("inf")
    return float(((found.double() - expected).abs() / scale).nan_to_num(0).max()) if found.numel() else 0.0


def signals_off(signals: Signals, batch: Batch, sequences: list[Case], layers: tuple[int, ...]) -> dict[str, float]:
    """How far signals are from the equations on the true maps, at worst."""
    worst: dict[str, float] = defaultdict(float)
    worst["layers"] = 0.0 if tuple(signals.layers.tolist()) == layers else float("inf")
    for b, case in enumerate(sequences):
        own, response = slice(batch.starts[b], batch.starts[b] + len(case.tokens)), case.response[None]
        maps = case.maps(layers)
        span = dense.span(maps, response)  # (1, L, H)
        local, glob = head_sets(span, CONFIG.head_fraction)
        nan = torch.full_like(maps[0, 0, 0, 0], float("nan"))
        waad = torch.where(response[0], dense.waad(maps[local].mean(0), WINDOW), nan)
        fai = torch.where(response[0], dense.fai(maps[glob].mean(0)[None], response, HORIZON)[0], nan)
        same = torch.equal(signals.local_heads[b], local[0]) and torch.equal(signals.global_heads[b], glob[0])
        for name, value in {
            "WAAD": off(signals.waad[b, own], waad),
            "FAI": off(signals.fai[b, own], fai),
            "span": off(signals.head_span[b], span[0], span[0].abs().clamp(min=1)),
            "heads": 0.0 if same else float("inf"),
        }.items():
            worst[name] = max(worst[name], value)
    return dict(worst)


def statistics_off(statistics: Any, sequences: list[Case], layers: tuple[int, ...]) -> dict[str, float]:
    """The same of every head by itself, in right-padded rows."""
    worst: dict[str, float] = defaultdict(float)
    for b, case in enumerate(sequences):
        own, response, maps = slice(len(case.tokens)), case.response, case.maps(layers)
        span, waad = dense.span(maps, response[None])[0], dense.waad(maps, WINDOW)[0]
        fai = dense.fai(maps, response[None], HORIZON)[0]
        for name, value in {
            "span": off(statistics.span[b], span, span.abs().clamp(min=1)),
            "WAAD": off(statistics.waad[b, :, :, own][..., response], waad[..., response]),
            "FAI": off(statistics.fai[0][b, :, :, own][..., response], fai[..., response]),
        }.items():
            worst[name] = max(worst[name], value)
    return dict(worst)


def nats_off(entropy: Tensor, logprob: Tensor, sequences: list[Case]) -> dict[str, float]:
    """How far (B, N) of each are from the true ones, in right-padded rows."""
    worst: dict[str, float] = defaultdict(float)
    for b, case in enumerate(sequences):
        own = slice(max(case.prompt, 1), len(case.tokens))
        true_entropy, true_logprob = case.log_probabilities()
        worst["entropy"] = max(worst["entropy"], off(entropy[b, own], true_entropy))
        worst["log-probability"] = max(worst["log-probability"], off(logprob[b, own], true_logprob))
    return dict(worst)


# ----------------------------------------------------------------------------------------------------- readings
