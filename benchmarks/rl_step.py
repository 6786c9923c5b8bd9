"""Speed of a whole RL step in the recipe of the embedded experiment: this project's loop against TRL's GRPOTrainer and
against an earlier version of itself, and what credit costs in it.

    .venv/bin/python -m benchmarks.rl_step [--trl-python PYTHON] [--before FOLDER] [--steps N] [--threads N]

    ours      training/loop.py with the recipe and coupled-rhythm credit
    before    the same of another version of this repository, in FOLDER (git archive COMMIT | tar -x -C FOLDER)
    trl       GRPOTrainer, which has no credit, with the model as transformers loads it: the same policy, puzzles,
              rewards, batch (16 prompts x 16 samples), length (96 tokens), two gradient steps a batch at the same rate,
              no KL term, temperature 1, float32
    trl_fast  the same with this project's matrix products (attention_rhythm/products.py)

PYTHON is that of an environment with benchmarks/requirements-trl.txt; without it TRL is "not run". Each side is a
process of its own, they take turns step by step; the first steps of each, which prepare what later ones find, are
thrown away. Speed is response tokens that were generated and learned from, per second of the whole step. Ours and
before begin alike, and their metrics are compared.

After each of our steps its batch is read again, with and without signals in turn: the difference, and the time of gamma
and of shaping the advantages, is what credit adds to the step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, measured, serve, timed
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "rl_step.json"
PHASES = ("generate", "read", "reward", "credit", "update")
PROMPTS, SAMPLES, GRADIENT_STEPS, TOKENS = 16, 16, 2, 96  # of training/configs/countdown.toml, for TRL
POLICY = ROOT / "training" / "checkpoints" / "countdown-policy"
SPEEDUP, OVER_BEFORE, CREDIT_SHARE, CLOSE = 2.5, 2.0, 0.01, 1e-3  # what is claimed
SAME = ("reward_mean", "entropy", "loss", "grad_norm", "approx_kl", "gamma_coverage")  # metrics of both versions
WARM_UP = 3  # steps


# -------------------------------------------------------------------------------------------- the sides


def ours() -> tuple[Callable[[Any], dict[str, Any]], str]:
    """A step of the loop a request."""
    import torch

    from attention_rhythm.credit import credit_weights, shape_advantages
    from attention_rhythm.models import load_model
    from attention_rhythm.tasks.prompts import build_prompt_ids
    from attention_rhythm.tasks.puzzles import load_puzzles
    from training.actors.train import TrainActor
    from training.experiment import load_toml, make_config
    from training.loop import _Run
    from training.measuring import correct

    variant = {"credit": {"strategy": "coupled_rhythm"}}
    config = make_config(load_toml("countdown"), variant, steps=10_000, seed=0)
    sizes = (config.prompts_per_step, config.samples_per_prompt, config.gradient_steps, config.max_new_tokens)
    assert sizes == (PROMPTS, SAMPLES, GRADIENT_STEPS, TOKENS), "the recipe is no longer the one that TRL is given"
    model, tokenizer = load_model(str(POLICY))
    folder = Path(tempfile.mkdtemp())
    run = _Run(
        model, tokenizer, load_puzzles("train"), lambda problem: build_prompt_ids(problem, tokenizer), correct, config,
        folder, None, TrainActor,
    )  # fmt: skip
    read, rollouts = run.attn.read, []

    def keep(rollout, **options):
        rollouts.append(rollout)
        return read(rollout, **options)

    run.attn.read = keep

    def answer(_: Any) -> dict[str, Any]:
        record, cost = measured(run.step)
        rollout = rollouts.pop()
        differences = []
        for order in ((True, False), (False, True)) * 2:
            seconds = {signals: timed(lambda signals=signals: read(rollout, signals=signals))[0] for signals in order}
            differences.append(seconds[True] - seconds[False])
        reading = read(rollout, signals=True)
        advantages = torch.ones(len(rollout.response))
        credit, _ = timed(
            lambda: shape_advantages(
                advantages,
                credit_weights(rollout.response, config.credit, waad=reading.signals.waad, fai=reading.signals.fai),
            )
        )
        phases = {name: record[f"seconds_{name}"] for name in PHASES}
        tokens = int(rollout.response.sum())
        metrics = {name: record[name] for name in SAME}
        shares = {"signals": statistics.median(differences), "gamma": credit}
        return {**cost, **shares, "tokens": tokens, "phases": phases, "metrics": metrics}

    return answer, f"torch {torch.__version__}"


def trl(*, fast: bool = False) -> tuple[Callable[[Any], dict[str, Any]], str]:
    """Two optimizer steps of a GRPOTrainer, which are one batch of completions, a request.

    A mini-batch is one pass: the trainer pads a whole batch of completions to its longest, smaller passes save nothing.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, __version__

    from attention_rhythm.models import load_model
    from attention_rhythm.tasks.grading import grade
    from attention_rhythm.tasks.prompts import build_prompt
    from attention_rhythm.tasks.puzzles import load_puzzles

    model, tokenizer = load_model(str(POLICY))
    if not fast:
        model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    model.requires_grad_(True)
    problems = load_puzzles("train", 2048)
    go, done, lengths = threading.Semaphore(0), threading.Semaphore(0), []

    def reward(completions: list[str], completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        lengths.append(sum(map(len, completion_ids)))
        return [float(grade(problems[i], text).correct) for i, text in zip(index, completions, strict=True)]

    class Turns(TrainerCallback):
        """The trainer waits for a request before each batch, and says when it has learned from it."""

        def on_step_begin(self, args, state, control, **_):
            if state.global_step % GRADIENT_STEPS == 0:
                go.acquire()

        def on_step_end(self, args, state, control, **_):
            if state.global_step % GRADIENT_STEPS == 0:
                done.release()

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=PROMPTS * SAMPLES // GRADIENT_STEPS,
            steps_per_generation=GRADIENT_STEPS,
            num_generations=SAMPLES,
            max_completion_length=TOKENS,
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-4,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=20,
            adam_beta2=0.99,
            max_steps=1_000_000,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1_000_000,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": build_prompt(problem, tokenizer), "index": i} for i, problem in enumerate(problems)]
        ),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )
    thread = threading.Thread(target=trainer.train, daemon=True)
    thread.start()

    def step() -> None:
        go.release()
        while not done.acquire(timeout=1.0):
            if not thread.is_alive():
                raise ReproError("the trainer has ended; see above")

    def answer(_: Any) -> dict[str, Any]:
        _, cost = measured(step)
        return {**cost, "tokens": lengths.pop()}

    return answer, f"trl {__version__}, torch {torch.__version__}"


SIDES = {"ours": ours, "before": ours, "trl": trl, "trl_fast": partial(trl, fast=True)}


# -------------------------------------------------------------------------------------- the measurement


def summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the steps, and the speed of each."""
    speeds = [step["tokens"] / step["wall_seconds"] for step in steps]
    result = {"tokens_per_second": statistics.median(speeds), "speeds": speeds}
    for key in ("wall_seconds", "cpu_seconds", "tokens", "peak_mib"):
        result[key] = statistics.median(step[key] for step in steps)
    if "phases" in steps[0]:
        result["phase_seconds"] = {name: statistics.median(step["phases"][name] for step in steps) for name in PHASES}
        for key in ("signals", "gamma"):
            result[f"{key}_seconds"] = statistics.median(step[key] for step in steps)
    return result


def with_these_benchmarks(folder: Path) -> Path:
    """Another version of the repository with the benchmarks of this one, so that both are measured alike."""
    mixed = Path(tempfile.mkdtemp())
    for entry in folder.resolve().iterdir():
        (mixed / entry.name).symlink_to(ROOT / "benchmarks" if entry.name == "benchmarks" else entry)
    return mixed


def farthest(ours: list[dict[str, Any]], before: list[dict[str, Any]]) -> float:
    """The largest difference of a metric in any step, as a share of its largest value (a loss may be near 0)."""
    shares = []
    for name in SAME:
        pairs = [(a["metrics"][name], b["metrics"][name]) for a, b in zip(ours, before, strict=True)]
        shares.append(max(abs(a - b) for a, b in pairs) / max(abs(b) for _, b in pairs))
    return max(shares)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl_step", description=__doc__.split("\n\n")[0])
    parser.add_argument("--trl-python", type=Path, metavar="PYTHON", help="without it, TRL is not run")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="of another version; without it, it is not run")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps of each side (default: 10)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each side (default: 1)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(SIDES[options.serve])
        return 0

    places: dict[str, tuple[str | Path, Path]] = {"ours": (sys.executable, ROOT)}
    if options.before:
        places["before"] = (sys.executable, with_these_benchmarks(options.before))
    if options.trl_python:
        places |= {side: (options.trl_python, ROOT) for side in ("trl", "trl_fast")}
    steps: dict[str, list[dict[str, Any]]] = {side: [] for side in places}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(side, "benchmarks.rl_step", ["--serve", side], options.threads, python, folder=folder)
            )
            for side, (python, folder) in places.items()
        ]
        about = {worker.name: worker.about for worker in workers}
        for number in range(1 - WARM_UP, options.steps + 1):
            for worker in workers if number % 2 == 0 else workers[::-1]:
                step = worker(None)
                steps[worker.name].append(step)
                speed = step["tokens"] / step["wall_seconds"]
                print(f"{number}/{options.steps} {worker.name}: {speed:.0f} tokens/s", flush=True)

    gap = farthest(steps["ours"], steps["before"]) if "before" in steps else None
    sides = {side: summary(steps[side][WARM_UP:]) if side in steps else "not run" for side in SIDES}
    mine = sides["ours"]
    share = (mine["signals_seconds"] + mine["gamma_seconds"]) / mine["wall_seconds"]

    def over(side: str) -> float | None:
        """Median over the rounds of the ratio of speeds within a round."""
        if side not in steps:
            return None
        return statistics.median(a / b for a, b in zip(mine["speeds"], sides[side]["speeds"], strict=True))

    claims = [
        make_claim("credit_of_step", share, "<=", CREDIT_SHARE),
        make_claim("ours_of_before", over("before"), ">=", OVER_BEFORE),
        make_claim("metrics_of_before", gap, "<=", CLOSE),
        make_claim("ours_of_trl", over("trl"), ">=", SPEEDUP),
        make_claim("ours_of_trl_fast", over("trl_fast"), ">=", None),
    ]
    settings = {"policy": POLICY.name, "steps": options.steps, "threads": options.threads, "about": about}
    settings |= {"prompts": PROMPTS, "samples": SAMPLES, "gradient_steps": GRADIENT_STEPS, "max_new_tokens": TOKENS}
    write(options.output, {"settings": settings, "sides": sides, "claims": claims})
    report(options.output, claims)
    return 0


if __name__ == "__main__":
    run(main)
