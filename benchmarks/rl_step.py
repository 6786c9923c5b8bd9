"""Speed of a whole RL step: this project's loop against TRL's GRPOTrainer, and what credit costs in it.

    .venv/bin/python -m benchmarks.rl_step [--trl-python PYTHON] [--steps N] [--threads N]

    ours   training/loop.py with the recipe of the embedded experiment and coupled-rhythm credit, --batch sequences in
           one pass (the recipe: 256): groups of like length pad less, and change nothing but rounding
    trl    GRPOTrainer, which has no credit: the same policy, puzzles, rewards, batch (16 prompts x 16 samples), length
           (96 tokens), two gradient steps a batch at the same rate, no KL term, temperature 1, float32

PYTHON is that of an environment with benchmarks/requirements-trl.txt; without it TRL is "not run". Each side is a
process of its own, they take turns step by step; the first step of each is thrown away. Speed is response tokens that
were generated and learned from, per second of the whole step.

After each of our steps its batch is read again, with and without signals in turn: the difference, and the time of gamma
and of shaping the advantages, is what credit adds to the step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError
from benchmarks.record import make_claim, report, run, write
from benchmarks.worker import Worker, measured, serve
from pipeline.manifest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "rl_step.json"
PHASES = ("generate", "read", "reward", "credit", "update")
PROMPTS, SAMPLES, GRADIENT_STEPS, TOKENS = 16, 16, 2, 96  # of training/configs/countdown.toml, for TRL
POLICY = ROOT / "training" / "checkpoints" / "countdown-policy"
SPEEDUP, CREDIT_SHARE = 1.5, 0.01  # what is claimed


# -------------------------------------------------------------------------------------------- the sides


def ours(batch: int) -> tuple[Callable[[Any], dict[str, Any]], str]:
    """A step of the loop a request, with `batch` sequences in one pass."""
    import torch

    from attention_rhythm.credit import credit_weights, shape_advantages
    from attention_rhythm.models import load_model
    from attention_rhythm.tasks.prompts import build_prompt_ids
    from attention_rhythm.tasks.puzzles import load_puzzles
    from training.actors.train import TrainActor
    from training.experiment import load_toml, make_config
    from training.loop import _Run
    from training.measuring import correct

    recipe = load_toml("countdown")
    variant = {
        "credit": {"strategy": "coupled_rhythm"},
        "optim": {"micro_batch": batch},
        "loop": {"forward_batch": batch},
    }
    config = make_config(recipe, variant, steps=10_000, seed=0)
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

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        started = time.perf_counter()
        result = call()
        return time.perf_counter() - started, result

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
        return {**cost, "tokens": tokens, "phases": phases, "signals": statistics.median(differences), "gamma": credit}

    return answer, f"torch {torch.__version__}"


def trl(_: int) -> tuple[Callable[[Any], dict[str, Any]], str]:
    """Two optimizer steps of a GRPOTrainer, which are one batch of completions, a request.

    A mini-batch is one pass: the trainer pads a whole batch of completions to its longest, smaller passes save nothing.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, __version__

    from attention_rhythm.models import load_model
    from attention_rhythm.tasks.grading import grade
    from attention_rhythm.tasks.prompts import build_prompt
    from attention_rhythm.tasks.puzzles import load_puzzles

    model, tokenizer = load_model(str(POLICY))
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


SIDES = {"ours": ours, "trl": trl}


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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl_step", description=__doc__.split("\n")[0])
    parser.add_argument("--trl-python", type=Path, metavar="PYTHON", help="without it, TRL is not run")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="steps of each side (default: 8)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each side (default: 2)")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="of our passes, in sequences (default: 32)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: SIDES[options.serve](options.batch))
        return 0

    pythons = {"ours": sys.executable} | ({"trl": options.trl_python} if options.trl_python else {})
    steps: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
    with ExitStack() as stack:
        arguments = ["--batch", str(options.batch), "--serve"]
        workers = [
            stack.enter_context(Worker(side, "benchmarks.rl_step", [*arguments, side], options.threads, python))
            for side, python in pythons.items()
        ]
        about = {worker.name: worker.about for worker in workers}
        for number in range(options.steps + 1):
            for worker in workers if number % 2 == 0 else workers[::-1]:
                step = worker(None)
                if number:  # the first is slower
                    steps[worker.name].append(step)
                    speed = step["tokens"] / step["wall_seconds"]
                    print(f"{number}/{options.steps} {worker.name}: {speed:.0f} tokens/s", flush=True)

    sides = {side: summary(steps[side]) if side in steps else "not run" for side in SIDES}
    mine = sides["ours"]
    share = (mine["signals_seconds"] + mine["gamma_seconds"]) / mine["wall_seconds"]
    claims = [make_claim("credit_of_step", share, "<=", CREDIT_SHARE)]
    if "trl" in steps:
        ratio = mine["tokens_per_second"] / sides["trl"]["tokens_per_second"]
        claims.append(make_claim("ours_of_trl", ratio, ">=", SPEEDUP))
    settings = {
        "policy": POLICY.name,
        "steps": options.steps,
        "threads": options.threads,
        "batch": options.batch,
        "about": about,
    }
    settings |= {"prompts": PROMPTS, "samples": SAMPLES, "gradient_steps": GRADIENT_STEPS, "max_new_tokens": TOKENS}
    write(options.output, {"settings": settings, "sides": sides, "claims": claims})
    report(options.output, claims)
    return 0


if __name__ == "__main__":
    run(main)
