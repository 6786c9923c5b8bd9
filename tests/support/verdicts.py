"""What reading a model is held to: its own float64 attention maps and logits, each sequence alone and unpadded.

The reference uses nothing of the library but `dense`, the equations of Sec. 4 on maps, which have tests by hand.
Bounds are 1e-4 tokens (WAAD), nats, weights (FAI) and, of spans, relative. Where a model's own float32 pass is further
than that from its float64 pass, that distance, measured here, is the unit: `ROUNDING` times it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.errors import ReproError
from attention_rhythm.signals import dense, implicit
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.forward import forward_statistics, response_statistics
from attention_rhythm.signals.heads import head_sets
from attention_rhythm.signals.reading import SignalConfig, Signals, attention_signals, combine_heads

# (prompt, response) tokens: longer than the zoo's windows; on both sides of where its rotary frequencies change (40)
LENGTHS = ((20, 60), (1, 49), (6, 28))
MATE = (3, 107)  # another sequence of a batch, longer than all of them
CONFIG = SignalConfig(layers="all", num_layers=None)
TOLERANCE, ROUNDING = 1e-4, 3.0
Distances = dict[str, float]  # by quantity, at worst; inf: a number where none is, other layers, other heads


@dataclass(frozen=True)
class Verdicts:
    """Of one model: "right", "refused: REASON", or "wrong: ..."; "none" where there is nothing to read."""

    streaming: str  # `attention_signals` of every layer of softmax attention
    dense: str  # the same with method="dense"
    fused: str  # `forward_statistics`: signals, entropy and log-probabilities
    logprobs: str  # `response_statistics`: entropy and log-probabilities
    implicit: str  # `implicit_signals` of every layer that has an implicit map
    causal: bool  # whether, in transformers' own pass, tokens change nothing for those before them


def verdicts(model: PreTrainedModel) -> Verdicts:
    """Both paddings, with and without a longer sequence in the batch."""
    cases = make_cases(model)
    bounds = rounding(model, cases)
    batches = [make_batch(cases, side, mate) for side in ("right", "left") for mate in (False, True)]
    right = [batch for batch in batches if not any(batch.starts)]

    def worst(read: Callable[[Batch], Distances], of: list[Batch]) -> str:
        try:
            found = [read(batch) for batch in of]
        except ReproError as error:
            return f"refused: {error}"
        over = {
            name: f"{value:.0e}"
            for distances in found
            for name, value in distances.items()
            if not value <= bounds.get(name, TOLERANCE)
        }
        return "wrong: " + ", ".join(f"{name} off by {value}" for name, value in over.items()) if over else "right"

    def signals(batch: Batch, method: str = "streaming") -> Distances:
        found: Distances = {}
        for layers, config in groups(cases):
            read = attention_signals(model, *batch.inputs, config, method=method)
            found = _further(found, signals_off(read, batch, cases, layers))
        return found

    def fused(batch: Batch) -> Distances:
        found: Distances = {}
        for layers, config in groups(cases):
            read, entropy, logprob = forward_statistics(
                model,
                batch.input_ids,
                batch.response,
                layers or (0,),
                CONFIG.window,
                [CONFIG.horizon],
                batch.attention.sum(1),
            )
            own = combine_heads(read.span, read.waad, read.fai[0], read.layers, batch.attention, batch.response, config)
            found = _further(found, signals_off(own, batch, cases, layers))
            found = _further(found, nats_off(entropy, logprob, cases))
        return found

    def logprobs(batch: Batch) -> Distances:
        return nats_off(*response_statistics(model, batch.input_ids, batch.response, batch.attention.sum(1)), cases)

    return Verdicts(
        streaming=worst(signals, batches),
        dense=worst(lambda batch: signals(batch, "dense"), batches[::3]),
        fused=worst(fused, right),
        logprobs=worst(logprobs, right),
        implicit=worst(lambda batch: implicit_off(model, batch, cases), batches[::3]) if has_mixers(model) else "none",
        causal=is_causal(model, cases[0]),
    )


def is_causal(model: PreTrainedModel, case: Case) -> bool:
    """Whether the first half of a sequence has the logits that it has in the whole."""
    half = len(case.tokens) // 2
    alone = truth(model, case.tokens[:half])
    return off(alone.logits, case.truth.logits[:half]) < 1e-2


def _further(one: Distances, other: Distances) -> Distances:
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in {**one, **other}}


# ------------------------------------------------------------------------------------------------ the reference


@dataclass
class Truth:
    """What a model says of one sequence by itself."""

    logits: Tensor  # (N, V) float64, like the maps from eager attention
    maps: dict[int, Tensor] = field(default_factory=dict)  # layer: (H, N, N) float64
    doubt: str = ""  # why the maps are not what Sec. 4 means by attention


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


def make_cases(model: PreTrainedModel) -> list[Case]:
    """Sequences of random tokens, with what the model says of each in float64."""
    generator = torch.Generator().manual_seed(0)
    sequences = [(random_tokens(sum(lengths), generator), lengths[0]) for lengths in LENGTHS]
    return [Case(tokens, prompt, truth(model, tokens)) for tokens, prompt in sequences]


def random_tokens(length: int, generator: torch.Generator) -> Tensor:
    """(N,): no special tokens among them."""
    return torch.randint(3, 100, (length,), generator=generator)


def groups(cases: list[Case]) -> Iterator[tuple[tuple[int, ...], SignalConfig]]:
    """The layers that have maps, those with as many heads together, and how to ask for them."""
    maps = cases[0].truth.maps
    heads = {layer: maps[layer].shape[0] for layer in sorted(maps)}
    if len(set(heads.values())) <= 1:
        yield tuple(heads), CONFIG
        return
    for count in sorted(set(heads.values())):
        layers = tuple(layer for layer in heads if heads[layer] == count)
        yield layers, replace(CONFIG, layers=layers)


@torch.no_grad()
def truth(model: PreTrainedModel, tokens: Tensor, dtype: torch.dtype = torch.float64) -> Truth:
    """What the model says of (N,) tokens in another number format."""
    if model.config.model_type == "xglm":  # its eager attention overflows in float64
        dtype = torch.float32
    eager = in_format(model, dtype)
    for config in _configs(eager):
        config._attn_implementation = "eager"
    with weights_of(eager, len(tokens)) as (maps, doubts):
        logits = _logits(eager, tokens, output_attentions=True)
    if bool(logits.isnan().any()):  # transformers' eager attention of blt is broken
        logits = _logits(in_format(model, dtype), tokens)
    if any(bool(found.triu(1).any()) for found in maps.values()):
        doubts.add("tokens look ahead")
    if any(found.shape[-2:] != (len(tokens),) * 2 for found in maps.values()):
        doubts.add("not one weight a pair of tokens")
    return Truth(logits, maps, "; ".join(sorted(doubts)))


def _logits(model: PreTrainedModel, tokens: Tensor, **options: bool) -> Tensor:
    """(N, V) float64."""
    out = model(input_ids=tokens[None], use_cache=False, **options)
    return (out[0] if isinstance(out, tuple) else out.logits)[0].double()


def in_format(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy in another number format, its experts computed by plain matrix products."""
    twin = copy.deepcopy(model).to(dtype)
    for config in _configs(twin):
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"
    return twin


def _configs(model: PreTrainedModel) -> list[Any]:
    found = [module.config for module in model.modules() if hasattr(getattr(module, "config", None), "to_dict")]
    return [*found, *(config.get_text_config() for config in found)]


@contextmanager
def weights_of(model: PreTrainedModel, length: int) -> Iterator[tuple[dict[int, Tensor], set[str]]]:
    """Maps that modules return beside their output, (H, N, N) by layer, and what is doubtful about them."""
    maps: dict[int, Tensor] = {}
    doubts: set[str] = set()
    seen: list[Tensor] = []  # a module and the one around it return the same

    def keep(module: torch.nn.Module, _: Any, out: Any) -> None:
        weights = out[1] if isinstance(out, tuple) and len(out) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4 or weights.shape[-2] != length:
            return  # a state, a cache
        if any(weights is other for other in seen):
            return
        seen.append(weights)
        layer = getattr(module, "layer_idx", None)
        layer = len(maps) if layer is None else int(layer)
        if layer in maps or layer < 0:
            doubts.add(f"layer {layer} attends twice")
        maps[layer] = weights[0].double()

    with ExitStack() as stack:
        for module in model.modules():
            if any(word in type(module).__name__ for word in ("Attention", "MLA")):
                stack.callback(module.register_forward_hook(keep).remove)
        for name in {type(module).__module__ for module in model.modules() if hasattr(module, "sinks")}:
            if "granite" in name:
                stack.enter_context(mock.patch.object(sys.modules[name], "eager_attention_forward", with_sinks))
        yield maps, doubts


def with_sinks(module, query, key, value, attention_mask, scaling, **_):
    """Attention with a logit of its own for each head: what Granite's eager attention computes, but does not return."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.mT * scaling + attention_mask  # (B, H, N, N)
    sinks = module.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    return (weights @ value).transpose(1, 2).contiguous(), weights


# ------------------------------------------------------------------------------------------------ the equations


@dataclass
class Expected:
    """Of one sequence, float64."""

    waad: Tensor  # (N,)
    fai: Tensor  # (N,)
    span: Tensor  # (L, H)
    local: Tensor  # (L, H) bool
    glob: Tensor  # (L, H) bool


def equations(maps: Tensor, response: Tensor) -> Expected:
    """Eqs. 7 to 10 on maps (L, H, N, N) and a response (N,)."""
    rows = response[None]
    span = dense.span(maps[None], rows)
    local, glob = head_sets(span, CONFIG.head_fraction)
    nan = torch.full(response.shape, float("nan"), dtype=maps.dtype)
    waad = dense.waad(maps[local[0]].mean(0), CONFIG.window)
    fai = dense.fai(maps[glob[0]].mean(0)[None], rows, CONFIG.horizon)[0]
    return Expected(torch.where(response, waad, nan), torch.where(response, fai, nan), span[0], local[0], glob[0])


def of_maps(case: Case, layers: tuple[int, ...]) -> Expected:
    """What the equations say of a sequence's true maps."""
    return equations(torch.stack([case.truth.maps[layer] for layer in layers]), case.response)


def nats(logits: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """Entropy and log-probability (nats) of the response tokens that have a token before them."""
    logp = logits.log_softmax(-1)  # (N, V)
    rows = torch.arange(max(case.prompt, 1), len(case.tokens)) - 1
    chosen = logp[rows].gather(-1, case.tokens[rows + 1, None])[:, 0]
    return -(logp.exp() * logp).sum(-1)[rows], chosen


# ------------------------------------------------------------------------------------------------- comparisons


@dataclass
class Batch:
    """Sequences in one array, and where each of them begins."""

    input_ids: Tensor  # (B, N)
    attention: Tensor  # (B, N) bool
    response: Tensor  # (B, N) bool
    starts: list[int]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three arrays."""
        return self.input_ids, self.attention, self.response


def make_batch(cases: list[Case], side: str, mate: bool) -> Batch:
    """Padded on a side; with a longer sequence behind them, or none."""
    rows = [(case.tokens, case.prompt) for case in cases]
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
    return Batch(input_ids, attention, response, starts[: len(cases)])


def off(found: Tensor, expected: Tensor, scale: Tensor | float = 1.0) -> float:
    """The largest difference, over a scale; inf where one is a number and the other is not, or shapes differ."""
    if found.shape != expected.shape or bool((found.isnan() != expected.isnan()).any()):
        return float("inf")
    return float(((found.double() - expected).abs() / scale).nan_to_num(0).max()) if found.numel() else 0.0


def expected_off(signals: Signals, b: int, start: int, expected: Expected) -> Distances:
    """How far row b is from what is expected of its sequence."""
    own = slice(start, start + len(expected.waad))
    same = torch.equal(signals.local_heads[b], expected.local) and torch.equal(signals.global_heads[b], expected.glob)
    return {
        "WAAD": off(signals.waad[b, own], expected.waad),
        "FAI": off(signals.fai[b, own], expected.fai),
        "span": off(signals.head_span[b], expected.span, expected.span.abs().clamp(min=1)),
        "heads": 0.0 if same else float("inf"),
    }


def signals_off(signals: Signals, batch: Batch, cases: list[Case], layers: tuple[int, ...]) -> Distances:
    """How far signals are from the equations on the true maps, at worst."""
    if any(case.truth.doubt for case in cases) or tuple(signals.layers.tolist()) != layers:
        return {"layers": float("inf")}
    found: Distances = {}
    for b, case in enumerate(cases):
        found = _further(found, expected_off(signals, b, batch.starts[b], of_maps(case, layers)))
    return found


def nats_off(entropy: Tensor, logprob: Tensor, cases: list[Case]) -> Distances:
    """How far (B, N) of each are from the true ones, in right-padded rows."""
    found: Distances = {}
    for b, case in enumerate(cases):
        own = slice(max(case.prompt, 1), len(case.tokens))
        true_entropy, true_logprob = nats(case.truth.logits, case)
        apart = {"entropy": off(entropy[b, own], true_entropy), "log-probability": off(logprob[b, own], true_logprob)}
        found = _further(found, apart)
    return found


def rounding(model: PreTrainedModel, cases: list[Case]) -> Distances:
    """What each quantity may be off by: more than the tolerance only where the model's own float32 pass is."""
    found: Distances = {}
    for case in cases:
        single = truth(model, case.tokens, torch.float32)
        entropy, logprob = nats(single.logits, case)
        true_entropy, true_logprob = nats(case.truth.logits, case)
        found = _further(found, {"entropy": off(entropy, true_entropy), "log-probability": off(logprob, true_logprob)})
        for layers, _ in groups(cases):
            if not layers or case.truth.doubt:
                continue
            one, other = of_maps(Case(case.tokens, case.prompt, single), layers), of_maps(case, layers)
            apart = {"WAAD": off(one.waad, other.waad), "FAI": off(one.fai, other.fai)}
            apart["span"] = off(one.span, other.span, other.span.abs().clamp(min=1))
            found = _further(found, apart)
    assert all(value < 0.01 for value in found.values()), f"float32 says nothing about this model: {found}"
    return {name: max(TOLERANCE, ROUNDING * value) for name, value in found.items()}


# -------------------------------------------------------------------------------------------------- implicit maps


def has_mixers(model: PreTrainedModel) -> bool:
    """Whether some layers have implicit maps."""
    try:
        implicit.implicit_layers(model)
    except UnsupportedAttention:
        return False
    return True


def implicit_off(model: PreTrainedModel, batch: Batch, cases: list[Case]) -> Distances:
    """How far `implicit_signals` are from the equations on each sequence's own maps, |A| normalised by row.

    And the maps times the values from what transformers' own function makes of the values, relative.
    """
    signals = implicit.implicit_signals(model, *batch.inputs, CONFIG)
    layers = tuple(signals.layers.tolist())
    found: Distances = {"layers": 0.0 if layers == implicit.implicit_layers(model) else float("inf")}
    for b, case in enumerate(cases):
        maps = implicit.implicit_maps(model, case.tokens[None], layers)[0].double().abs()  # (L, H, N, N)
        expected = equations(maps / maps.sum(-1, keepdim=True).clamp(min=1e-38), case.response)
        apart = expected_off(signals, b, batch.starts[b], expected)
        found = _further(found, {f"implicit {name}": value for name, value in apart.items()})
    return _further(found, {"map times values": map_off(model, cases[0].tokens, layers)})


@torch.no_grad()
def map_off(model: PreTrainedModel, tokens: Tensor, layers: tuple[int, ...]) -> float:
    """Of the mixers that call a function of transformers: A V from that function's output, over the largest output."""
    worst, n = [0.0], len(tokens)

    def compare(_: int, of: implicit.ImplicitMap) -> None:
        parts = [of] if isinstance(of, implicit.FunctionMap) else getattr(of, "parts", [])
        for part in parts:
            maps, out = part.columns(0, n, n), part.apply(part.value)  # (B, H, N, N)
            made = torch.einsum("bhts,bhs->bht" if part.by_channel else "bhts,bshd->bthd", maps, part.value)
            worst.append(float((made - out).abs().max() / out.abs().max()))

    with implicit._reading(model, layers, compare):
        model(input_ids=tokens[None], use_cache=False)
    return max(worst)
