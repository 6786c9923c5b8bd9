"""Parts `loop` and `step` of the GPU check: training/loop.py on a GPU.

    loop   the embedded experiment's recipe in float32. Its first step is done once more on a CPU: there the responses
           are drawn anew, and the rest of the step is done with those of the GPU, so that one token drawn on the other
           side of a rounding does not hide whether signals, credit and update agree.
    step   steps of a model of the shape of SmolLM2-135M with random weights, under bfloat16 autocast: 8 prompts, 8
           responses of 200 tokens each, rewards drawn by lot. What signals and credit cost of it: `fused` is the
           difference of a reading with signals and one without, and gamma; `separate` and `dense` the same with the
           other ways to read them.

The statistics of Table 2 are not logged: they need scipy and say nothing about a GPU.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from attention_rhythm.generation.base import Completion, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles
from benchmarks.record import make_claim
from pipeline.manifest import ROOT
from training.actors.attn import AttnActor
from training.actors.infer import Rollout, collate
from training.loop import TrainConfig, train
from training.measuring import correct
from training.recipes import load_toml, make_config

POLICY = ROOT / "training" / "checkpoints" / "countdown-policy"
STEPS = 20
# What two devices may differ by: |a - b| <= absolute + relative |b|. Rounding by itself takes a hundredth of that
# (weights changed by 1e-6, on a CPU); a token on the edge of the top 40 percent, which rounding may move, changes the
# loss by 5e-5.
ABSOLUTE, RELATIVE = 1e-4, 1e-3
SAME_RESPONSES = 0.99  # of all: a draw within a rounding of the edge of its token's interval falls to either side
SAMPLER_GAP = 1e-3  # nats, between the decoder and a forward pass in float32
SMOLLM2_135M = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
SHARE = {"fused": 0.01, "separate": 0.02, "dense": None}  # of a step, for signals and credit: what is claimed, at most


# --------------------------------------------------------------------------------------- generators


class Recorded:
    """The model's own generator, which keeps what it has generated."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any):
        self.model = model
        self.own = HFGenerator(model, tokenizer)
        self.kept: list[tuple[list[list[int]], SamplingConfig, list[Completion]]] = []

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Completion]:
        """See `Generator.generate`."""
        completions = self.own.generate(prompts, sampling)
        self.kept.append(([list(prompt) for prompt in prompts], sampling, completions))
        return completions


class Replayed:
    """Says what a `Recorded` has said, to the same prompts in the same order."""

    def __init__(self, model: PreTrainedModel, recorded: Recorded):
        self.model = model
        self.kept = iter(recorded.kept)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Completion]:
        """See `Generator.generate`. ValueError: another request than the one that was recorded."""
        asked, settings, completions = next(self.kept)
        if asked != [list(prompt) for prompt in prompts] or settings != sampling:
            raise ValueError("the two devices were asked for other responses")
        return completions


# ------------------------------------------------------------------------------------------ part `loop`


def recipe(steps: int, loop: Mapping[str, Any]) -> TrainConfig:
    """The embedded experiment's, with coupled-rhythm credit, in float32. loop: changes of its table [loop]."""
    variant = {
        "credit": {"strategy": "coupled_rhythm"},
        "optim": {"bf16": False},
        "loop": {"rhythm_every": 0, "checkpoint_every": steps, **loop},
    }
    return make_config(load_toml("countdown"), variant, steps=steps, seed=0)


def embedded(
    device: str, config: TrainConfig, make_generator: Callable[[PreTrainedModel, Any], Any]
) -> tuple[list[dict[str, Any]], Any]:
    """The records of a run of the embedded experiment, and its generator."""
    model, tokenizer = load_model(str(POLICY), device=device)
    generator = make_generator(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        records = train(
            model, tokenizer, load_puzzles("train"), folder=Path(folder) / "run",
            prompt=lambda problem: build_prompt_ids(problem, tokenizer), reward=correct, config=config,
            generator=generator,
        )  # fmt: skip
    return records, generator


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Each metric of a step on both sides, and their distance as a share of what is allowed; seconds excepted."""
    found = {}
    for name, b in theirs.items():
        if name.startswith("seconds_"):
            continue
        a = ours[name]
        if (a is None) != (b is None):
            share = float("1e9")  # undefined on one side alone
        else:
            share = 0.0 if b is None else abs(a - b) / (ABSOLUTE + RELATIVE * abs(b))
        found[name] = {"here": a, "cpu": b, "share_of_bound": share}
    return found


def check_loop(
    device: str, deadline: float, steps: int = STEPS, loop: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows and claims; loop: changes of the recipe's table [loop], for a smaller one."""
    config = recipe(steps, loop or {})
    records, recorded = embedded(device, config, Recorded)
    phases = sorted(name for name in records[0] if name.startswith("seconds_"))
    later = records[2:] or records  # the first steps prove decoders and compile kernels
    yield {"steps": len(records), "medians": {name: statistics.median(r[name] for r in later) for name in phases}}
    yield {"rewards": [record["reward_mean"] for record in records]}
    yield make_claim("loop_steps", len(records), ">=", steps)
    yield make_claim("loop_sampler_gap", max(record["sampler_gap"] for record in records), "<=", SAMPLER_GAP)
    if time.monotonic() > deadline:
        for name, sense, bound in (("loop_responses", ">=", SAME_RESPONSES), ("loop_first_step", "<=", 1.0)):
            yield make_claim(name, None, sense, bound) | {"why": "no time left"}
        return

    model, tokenizer = load_model(str(POLICY))
    prompts, sampling, drawn = recorded.kept[0]
    again = HFGenerator(model, tokenizer).generate(prompts, sampling)
    same = [one.token_ids == other.token_ids for one, other in zip(drawn, again, strict=True)]
    yield make_claim("loop_responses", statistics.mean(same), ">=", SAME_RESPONSES)
    first = recipe(1, loop or {})
    theirs, _ = embedded("cpu", first, lambda model, _: Replayed(model, recorded))
    found = differences(records[0], theirs[0])
    yield {"first_step": found}
    yield make_claim("loop_first_step", max(one["share_of_bound"] for one in found.values()), "<=", 1.0)


# ------------------------------------------------------------------------------------------ part `step`


class Mute:
    """A tokenizer for random tokens: there is no text, and nothing ends a response before its limit."""

    eos_token_id = None
    pad_token_id = 0

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Nothing."""
        return ""


def random_model(sizes: Mapping[str, Any], device: str) -> PreTrainedModel:
    """A Llama with random float32 weights, in eval mode, whose responses end at their limit only."""
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=None)).eval()
    model.generation_config.eos_token_id = None
    return model


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Until the device is done."""
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def cost_of_signals(
    model: PreTrainedModel, rollout: Rollout, config: TrainConfig, mode: str, rounds: int
) -> dict[str, Any]:
    """Seconds that the signals add to reading a rollout, by one of the ways of actor_attn: the median of the rounds.

    Both readings take turns; the first round is thrown away. Memory: the most that PyTorch held above what it held
    before, in MiB; NaN on a CPU.
    """
    device = model.device.type
    actor = AttnActor(model, config.signals, mode, config.forward_batch, bf16=config.optim.bf16)
    for signals in (True, False):
        actor.read(rollout, signals=signals)
    above = float("nan")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        actor.read(rollout, signals=True)
        above = (torch.cuda.max_memory_allocated() - before) / 2**20
    pairs = []
    for number in range(rounds):
        order = (True, False) if number % 2 == 0 else (False, True)
        seconds = {s: seconds_of(lambda s=s: actor.read(rollout, signals=s), device) for s in order}
        pairs.append([seconds[True], seconds[False]])
    return {
        "signals_seconds": statistics.median(with_ - without for with_, without in pairs),
        "read_seconds": statistics.median(with_ for with_, _ in pairs),
        "rounds": pairs,
        "above_weights_mib": above,
    }


def check_step(
    device: str,
    deadline: float,
    sizes: Mapping[str, Any] | None = None,
    shape: tuple[int, int, int, int] = (8, 8, 100, 200),
    rounds: int = 9,
) -> Iterator[dict[str, Any]]:
    """Rows and claims. shape: prompts, responses to each, tokens of a prompt, tokens of a response."""
    sizes = SMOLLM2_135M if sizes is None else sizes
    prompts, samples, before, tokens = shape
    model = random_model(sizes, device)
    lots = random.Random(0)
    problems = [Problem(id=str(number), task="lots", question="", answer="") for number in range(3 * prompts)]
    texts = {problem.id: [lots.randrange(sizes["vocab_size"]) for _ in range(before)] for problem in problems}
    config = TrainConfig(
        steps=3, prompts_per_step=prompts, samples_per_prompt=samples, gradient_steps=2, max_new_tokens=tokens,
        signals=SignalConfig(), rhythm_every=0, checkpoint_every=3,
    )  # fmt: skip
    recorded = Recorded(model, Mute())
    with tempfile.TemporaryDirectory() as folder:
        records = train(
            model, Mute(), problems, folder=Path(folder) / "run", prompt=lambda problem: texts[problem.id],
            reward=lambda *_: float(lots.random() < 0.5), config=config, generator=recorded,
        )  # fmt: skip
    phases = {
        name.removeprefix("seconds_"): statistics.median(record[name] for record in records[1:])
        for name in records[0]
        if name.startswith("seconds_")
    }
    step = sum(phases.values())
    yield {"phases": phases, "step_seconds": step, "tokens_per_second": prompts * samples * tokens / step}
    lengths = {record["response_length"] for record in records}
    yield make_claim("step_response_tokens", min(lengths), ">=", tokens)

    asked, _, completions = recorded.kept[-1]
    rollout = collate([p for p in asked for _ in range(samples)], completions, 0).to(model.device)
    fused = 0.0
    for mode, bound in SHARE.items():
        if time.monotonic() > deadline:
            yield make_claim("step_signals_and_credit", None, "<=", bound, mode=mode) | {"why": "no time left"}
            continue
        cost = cost_of_signals(model, rollout, config, mode, min(rounds, 3) if mode == "dense" else rounds)
        yield {"mode": mode, **cost}
        if mode == "fused":
            fused = cost["signals_seconds"]
        whole = step - fused + cost["signals_seconds"]  # the step was measured with the fused signals in it
        share = (cost["signals_seconds"] + phases["credit"]) / whole
        yield make_claim("step_signals_and_credit", share, "<=", bound, mode=mode)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
