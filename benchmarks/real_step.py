"""What signals and credit are of one GRPO step of a real model.

    .venv/bin/python -m benchmarks.real_step [--qwen FOLDER] [--rounds N] [--threads N]

A step as training/loop.py does it: 8 Countdown problems, 8 responses to each, 200 tokens in each response whatever ends
it; generate, read, reward, credit, update in two gradient steps (32 responses each, as in the paper). SmolLM2-135M, and
Qwen2.5-Coder-0.5B-Instruct where its folder is given; float32. What signals add:

    fused      reading with signals minus reading without
    separate   the same difference, where the signals have a pass of their own
    dense      the same difference, where they come from eager N x N maps of all layers

Gamma and the shaped advantages are credit, and come on top. A share is (signals + credit) of the step that has them.
The rewards are graded, which is timed, and then replaced: half of each group's responses is right, so that all of them
have an advantage and none is left out of the update.

Each phase is measured by itself. Reading without and with fused signals takes turns, `--rounds` times, and the others
join in the first rounds; their differences are within a round. Generation and update take minutes, and are done twice.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError
from attention_rhythm.models import DEFAULT_MODEL
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, available_gib, serve, timed
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "real_step.json"
PROMPTS, SAMPLES, TOKENS, GRADIENT_STEPS = 8, 8, 200, 2
MODES = ("fused", "separate", "dense")
BOUNDS = {"fused": 0.01, "separate": 0.02, "dense": None}  # of the share; 0.02 is the paper's
CREDIT_REPEATS = 5


@dataclass(frozen=True)
class Sizes:
    """Numbers of the measurement that may be smaller in a test."""

    prompts: int = PROMPTS
    samples: int = SAMPLES
    tokens: int = TOKENS
    forward_batch: int = 8  # sequences in one pass of reading
    micro_batch: int = 2  # sequences in one forward and backward pass: what a 0.5B model leaves room for in 24 GiB


class Step:
    """The phases of one step of `model`, each to be done by itself, in this order; every one returns its seconds."""

    def __init__(self, model: Any, tokenizer: Any, sizes: Sizes = Sizes()):
        import torch

        from attention_rhythm.generation.base import SamplingConfig
        from attention_rhythm.generation.hf import HFGenerator
        from attention_rhythm.signals.reading import SignalConfig
        from attention_rhythm.tasks.problems import load_problems
        from attention_rhythm.tasks.prompts import build_prompt_ids
        from training.actors.attn import AttnActor
        from training.actors.infer import InferActor
        from training.actors.train import OptimConfig, TrainActor

        self.problems = load_problems("countdown", split="train", limit=sizes.prompts, source="generated")
        self.prompts = [build_prompt_ids(problem, tokenizer) for problem in self.problems]
        self.sampling = SamplingConfig(sizes.tokens, samples=sizes.samples, ignore_eos=True)
        self.infer = InferActor(HFGenerator(model, tokenizer), tokenizer.pad_token_id, sizes.prompts * sizes.samples)
        self.attn = {mode: AttnActor(model, SignalConfig(), mode, sizes.forward_batch) for mode in MODES}
        self.train = TrainActor(model, OptimConfig(micro_batch=sizes.micro_batch), Path(tempfile.mkdtemp()))
        self.groups = torch.arange(sizes.prompts).repeat_interleave(sizes.samples)
        self.rewards = (torch.arange(sizes.prompts * sizes.samples) % 2).float()

    def generate(self) -> float:
        seconds, self.rollout = timed(lambda: self.infer.rollout(self.prompts, self.sampling))
        return seconds

    def read(self, mode: str | None) -> float:
        """Old log-probabilities and entropy; with a mode, the signals too."""
        seconds, reading = timed(lambda: self.attn[mode or "fused"].read(self.rollout, signals=mode is not None))
        if mode is not None:
            self.reading = reading
        return seconds

    def reward(self) -> float:
        """The grades of all responses, and the advantages of those that stand in for them."""
        from attention_rhythm.grpo import group_advantages
        from attention_rhythm.tasks.grading import grade

        asked = [problem for problem in self.problems for _ in range(self.sampling.samples)]

        def rewards_and_advantages():
            for problem, text in zip(asked, self.rollout.texts, strict=True):
                grade(problem, text)
            return group_advantages(self.rewards, self.groups)  # (B,)

        seconds, self.advantages = timed(rewards_and_advantages)
        return seconds

    def credit(self) -> float:
        from attention_rhythm.credit import CreditConfig, credit_weights, shape_advantages

        signals = self.reading.signals

        def shaped():
            gamma = credit_weights(self.rollout.response, CreditConfig(), waad=signals.waad, fai=signals.fai)
            return shape_advantages(self.advantages, gamma)  # (B, N)

        times = []
        for _ in range(CREDIT_REPEATS):
            seconds, self.shaped = timed(shaped)
            times.append(seconds)
        return statistics.median(times)

    def update(self) -> float:
        import torch

        tensors = (self.rollout.input_ids, self.rollout.response, self.reading.old_logp, self.shaped)
        order = torch.randperm(len(self.rewards), generator=torch.Generator().manual_seed(0))

        def gradient_steps():
            for rows in order.tensor_split(GRADIENT_STEPS):
                self.train.step(*(x[rows] for x in tensors))

        return timed(gradient_steps)[0]


def needed_gib(parameters: int, vocabulary: int, layers: int, hidden: int, intermediate: int, sizes: Sizes) -> float:
    """What the update at least holds, in GiB: four numbers a weight, a micro-batch's activations and logits, float32.

    Some 12 arrays of the hidden size and 4 of the MLP's are kept for each layer of each token, and of the logits the
    log-probabilities and the gradient beside them.
    """
    tokens = sizes.micro_batch * sizes.tokens
    numbers = 4 * parameters + tokens * (layers * (12 * hidden + 4 * intermediate) + 3 * vocabulary)
    return 4 * numbers / 2**30


def prepare(folder: str) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """A model's phases as a worker: from [phase, argument] to seconds.

    ReproError: the machine has not the memory for its update.
    """
    from attention_rhythm.models import load_model, model_name
    from training.loop import TrainConfig
    from training.plan import seconds_of_a_step

    model, tokenizer = load_model(folder)
    sizes, config = Sizes(), model.config
    needed = needed_gib(
        model.num_parameters(),
        config.vocab_size,
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        sizes,
    )
    if needed > available_gib():
        raise ReproError(f"{model_name(folder)} needs {needed:.0f} GiB: more than this machine has free. Not run")
    step = Step(model, tokenizer, sizes)
    planned = TrainConfig(
        prompts_per_step=sizes.prompts, samples_per_prompt=sizes.samples, gradient_steps=GRADIENT_STEPS,
        max_new_tokens=sizes.tokens,
    )  # fmt: skip
    predicted = seconds_of_a_step(model, step.infer.generator, step.prompts, planned)
    phases = {name: getattr(step, name) for name in ("generate", "read", "reward", "credit", "update")}
    about = {"model": model_name(folder), "parameters": model.num_parameters(), "predicted_step_seconds": predicted}
    return lambda request: phases[request[0]](*request[1:]), about


# -------------------------------------------------------------------------------------- the measurement


def measure(ask: Callable[[list[Any]], float], rounds: int, twice: int = 2) -> dict[str, Any]:
    """Seconds of every phase, as they were measured: lists, by name; `reading` has one dict a round."""
    found: dict[str, Any] = {"generate": [ask(["generate"]) for _ in range(twice)], "reading": []}
    print(f"  generate: {statistics.median(found['generate']):.1f} s", flush=True)
    for number in range(rounds):
        order = [None, "fused"] + (["separate", "dense"] if number < twice else [])
        seconds = {mode or "plain": ask(["read", mode]) for mode in (order if number % 2 == 0 else order[::-1])}
        found["reading"].append(seconds)
        shown = ", ".join(f"{mode} {value:.1f} s" for mode, value in seconds.items())
        print(f"  reading {number + 1}/{rounds}: {shown}", flush=True)
    found |= {name: [ask([name])] for name in ("reward", "credit")}
    found["update"] = [ask(["update"]) for _ in range(twice)]
    print(f"  update: {statistics.median(found['update']):.1f} s", flush=True)
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the phases (medians), of the signals by mode, and the share of signals and credit in the step."""
    phases = {name: statistics.median(found[name]) for name in ("generate", "reward", "credit", "update")}
    phases["read"] = statistics.median(seconds["plain"] for seconds in found["reading"])
    signals = {mode: statistics.median(s[mode] - s["plain"] for s in found["reading"] if mode in s) for mode in MODES}
    whole = {mode: sum(phases.values()) + added for mode, added in signals.items()}
    shares = {mode: (added + phases["credit"]) / whole[mode] for mode, added in signals.items()}
    return {"phase_seconds": phases, "signals_seconds": signals, "step_seconds": whole, "shares": shares}


def claims(models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The share of signals and credit in a step, by model and mode, with its bound."""
    return [
        make_claim(f"{mode}_of_real_step", found["shares"][mode], "<=", BOUNDS[mode], model=name)
        for mode in MODES
        for name, found in models.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_step", description=__doc__.split("\n")[0])
    parser.add_argument("--qwen", metavar="FOLDER", help="of Qwen2.5-Coder-0.5B-Instruct; without it, it is not run")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of reading, two at least (default: 5)")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve))
        return 0
    if options.rounds < 2:
        parser.error("--rounds: two at least")

    models = {}
    for folder in [DEFAULT_MODEL, *([options.qwen] if options.qwen else [])]:
        with Worker(folder, "benchmarks.real_step", ["--serve", folder], options.threads) as worker:
            name, step = worker.about["model"], worker.about["predicted_step_seconds"]
            # two generations and updates; a reading is about a quarter of a step
            minutes = step * (2 + options.rounds / 2) / 60
            print(f"{name}: a step without signals is predicted to take {step:.0f} s, all of it {minutes:.0f} minutes",
                  flush=True)  # fmt: skip
            found = measure(worker, options.rounds)
            models[name] = {**worker.about, **summary(found), "measured": found}
    settings = {
        "rounds": options.rounds, "threads": options.threads, "prompts": PROMPTS, "samples": SAMPLES, "tokens": TOKENS,
        "gradient_steps": GRADIENT_STEPS, "task": "countdown", "rewards": "half of each group",
    }  # fmt: skip
    found_claims = claims(models)
    write(options.output, {"settings": settings, "models": models, "claims": found_claims})
    for name, found in models.items():
        print(f"{name}: " + ", ".join(f"{mode} {100 * share:.2f}%" for mode, share in found["shares"].items()))
    report(options.output, found_claims)
    return 0


if __name__ == "__main__":
    run(main)
