"""Train any Hugging Face causal LM by GRPO with credit from attention, on any task that has a grader.

    python -m training.run --model FOLDER --task countdown --strategy coupled_rhythm --out results/training/my-run

The loop is the one of the embedded experiment (training/loop.py). On one GPU: bfloat16 autocast over float32 weights,
micro-batches, gradient checkpointing. Killed, the same command goes on from its last checkpoint; at the end the trained
model is saved as an ordinary folder, OUT/model, for python -m evaluation.run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.signals import SignalConfig
from evaluation.artifacts import ReproError, atomic_folder
from evaluation.generation.base import GenerationError, Generator
from evaluation.models import load_model
from evaluation.problems import DataError, load_problems
from evaluation.prompts import build_prompt_ids
from training.actors.attn import MODES
from training.actors.train import OptimConfig
from training.credit import SIGNALS, CreditConfig
from training.experiment import sampled_accuracy
from training.loop import TrainConfig, train


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, metavar="ID_OR_PATH")
    parser.add_argument("--task", default="countdown", metavar="NAME", help="its `train` split is trained on")
    parser.add_argument("--strategy", default="coupled_rhythm", choices=tuple(SIGNALS))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    loop = parser.add_argument_group("loop")
    loop.add_argument("--steps", type=int, default=500)
    loop.add_argument("--prompts", type=int, default=64, help="problems a step")
    loop.add_argument("--samples", type=int, default=8, help="responses to each problem")
    loop.add_argument("--gradient-steps", type=int, default=16, help="a batch")
    loop.add_argument("--max-new-tokens", type=int, default=1024)
    loop.add_argument("--infer", default="hf", choices=("hf", "vllm"), help="the engine that generates")
    loop.add_argument("--attn", default="fused", choices=MODES, help="how the signals are read")
    loop.add_argument("--evaluate-every", type=int, default=20, metavar="STEPS")
    loop.add_argument("--held-out", type=int, default=64, metavar="N", help="test problems of an evaluation")
    loop.add_argument("--tensorboard", action="store_true")
    loop.add_argument("--seed", type=int, default=0)
    credit = parser.add_argument_group("credit")
    credit.add_argument("--quantile", type=float, default=0.4, help="share of tokens that get credit")
    credit.add_argument("--amplification", type=float, default=1.5)
    credit.add_argument("--sign", default="both", choices=("both", "positive", "negative"))
    credit.add_argument("--horizon", type=int, nargs=2, default=(10, 100), metavar=("LOW", "HIGH"), help="of FAI")
    optim = parser.add_argument_group("optimizer")
    optim.add_argument("--lr", type=float, default=1e-6)
    optim.add_argument("--micro-batch", type=int, default=8, help="sequences in one forward and backward pass")
    optim.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        config = TrainConfig(
            credit=CreditConfig(options.strategy, options.quantile, options.amplification, sign=options.sign),
            signals=SignalConfig(horizon=tuple(options.horizon)),
            optim=OptimConfig(
                lr=options.lr,
                micro_batch=options.micro_batch,
                gradient_checkpointing=options.gradient_checkpointing,
            ),
            steps=options.steps,
            prompts_per_step=options.prompts,
            samples_per_prompt=options.samples,
            gradient_steps=options.gradient_steps,
            max_new_tokens=options.max_new_tokens,
            attn=options.attn,
            evaluate_every=options.evaluate_every,
            tensorboard=options.tensorboard,
            seed=options.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        problems = load_problems(options.task, split="train")
        test = load_problems(options.task, limit=options.held_out)
        # weights in float32: a step of 1e-6 does not move a bfloat16 weight
        model, tokenizer = load_model(options.model, dtype="float32", device=options.device)
        engine = None
        if options.infer == "vllm":  # a second copy of the weights, pushed after each update
            from evaluation.generation.vllm import VLLMGenerator

            engine = VLLMGenerator.load(options.model)
        measure = {"samples": 1, "max_new_tokens": config.max_new_tokens, "batch": config.generation_batch}

        def evaluate(generator: Generator) -> dict[str, float]:
            return {"sampled": float(sampled_accuracy(generator, tokenizer, test, **measure).mean())}

        records = train(
            model,
            tokenizer,
            problems,
            folder=options.out,
            prompt=lambda problem: build_prompt_ids(problem, tokenizer),
            config=config,
            evaluate=evaluate,
            generator=engine,
            resume=True,
        )
        with atomic_folder(options.out / "model") as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ReproError, DataError, GenerationError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(
        f"held-out accuracy {records[0]['eval_sampled']:.3f} -> {records[-1]['eval_sampled']:.3f}; {options.out}/model"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
