"""Train any Hugging Face causal LM by GRPO with credit from attention, on any task that has a grader.

    python -m training.run --model FOLDER --task countdown --strategy coupled_rhythm --out results/training/my-run

The loop is the one of the embedded experiment (training/loop.py). On one GPU: bfloat16 autocast over float32 weights,
micro-batches, gradient checkpointing. Killed, the same command goes on from its last checkpoint; at the end the trained
model is saved as an ordinary folder, OUT/model, for python -m evaluation.run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attention_rhythm.credit import SIGNALS, CreditConfig
from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import atomic_folder, locked
from attention_rhythm.generation.base import GenerationError, Generator
from attention_rhythm.models import check_spec, load_model
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.problems import DataError, load_problems
from attention_rhythm.tasks.prompts import build_prompt_ids
from training.actors.attn import MODES
from training.actors.megatron import Layout, MegatronTrainActor, check
from training.actors.megatron_ranks import MegatronLeader, MegatronProcesses, follow, join
from training.actors.train import OptimConfig, TrainActor
from training.experiment import sampled_accuracy
from training.loop import TrainConfig, train


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, metavar="ID_OR_PATH")
    parser.add_argument("--task", default="countdown", metavar="NAME", help="its `train` split is trained on")
    parser.add_argument("--strategy", default="coupled_rhythm", choices=tuple(SIGNALS))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    sizes = parser.add_argument_group("loop")
    sizes.add_argument("--steps", type=int, default=500)
    sizes.add_argument("--prompts", type=int, default=64, help="problems a step")
    sizes.add_argument("--samples", type=int, default=8, help="responses to each problem")
    sizes.add_argument("--gradient-steps", type=int, default=16, help="a batch")
    sizes.add_argument("--max-new-tokens", type=int, default=1024)
    sizes.add_argument("--infer", default="hf", choices=("hf", "vllm"), help="the engine that generates")
    sizes.add_argument("--attn", default="fused", choices=MODES, help="how the signals are read")
    sizes.add_argument("--evaluate-every", type=int, default=20, metavar="STEPS")
    sizes.add_argument("--held-out", type=int, default=64, metavar="N", help="test problems of an evaluation")
    sizes.add_argument("--tensorboard", action="store_true")
    sizes.add_argument("--seed", type=int, default=0)
    credit = parser.add_argument_group("credit")
    credit.add_argument("--quantile", type=float, default=0.4, help="share of tokens that get credit")
    credit.add_argument("--amplification", type=float, default=1.5)
    credit.add_argument("--sign", default="both", choices=("both", "positive", "negative"))
    credit.add_argument("--horizon", type=int, nargs=2, default=(10, 100), metavar=("LOW", "HIGH"), help="of FAI")
    optim = parser.add_argument_group("optimizer")
    optim.add_argument("--lr", type=float, default=1e-6)
    optim.add_argument("--micro-batch", type=int, default=8, help="sequences in one forward and backward pass")
    optim.add_argument("--gradient-checkpointing", action="store_true")
    megatron = parser.add_argument_group("Megatron-core (docs/engines.md)")
    megatron.add_argument("--train", default="torch", choices=("torch", "megatron"), help="the engine that updates")
    megatron.add_argument("--tensor-parallel", type=int, default=1, metavar="N")
    megatron.add_argument("--pipeline-parallel", type=int, default=1, metavar="N")
    megatron.add_argument("--data-parallel", type=int, default=1, metavar="N", help="under torchrun: what is left")
    megatron.add_argument("--sequence-parallel", action="store_true")
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
        check_spec(options.model)  # costs nothing; problems may come from the hub
        problems = load_problems(options.task, split="train")
        test = load_problems(options.task, limit=options.held_out)
        # weights in float32: a step of 1e-6 does not move a bfloat16 weight
        model, tokenizer = load_model(options.model, dtype="float32", device=options.device)
        train_actor = TrainActor
        if options.train == "megatron":
            layout = Layout(
                options.tensor_parallel, options.pipeline_parallel, sequence_parallel=options.sequence_parallel
            )
            ranks = options.tensor_parallel * options.pipeline_parallel * options.data_parallel
            if "RANK" not in os.environ:
                check(model, layout, ranks)
                train_actor = partial(MegatronProcesses, layout=layout, ranks=ranks)
            elif options.infer == "vllm":
                raise UsageError("vLLM and torchrun each want the process group of rank 0: leave out torchrun")
            elif join(model, layout) == 0:
                train_actor = partial(MegatronLeader, layout=layout)
            else:
                options_of_loss = {name: getattr(config, name) for name in ("clip_low", "clip_high", "aggregation")}
                follow(MegatronTrainActor(model, config.optim, options.out, layout=layout, **options_of_loss))
                return 0
        engine = None
        if options.infer == "vllm":  # a second copy of the weights, pushed after each update
            from attention_rhythm.generation.vllm import VLLMGenerator

            on_gpu = model.device.type == "cuda"
            engine = VLLMGenerator.load(options.model, dtype="bfloat16" if on_gpu else "float32", sleeps=on_gpu)
        measure = {"samples": 1, "max_new_tokens": config.max_new_tokens, "batch": config.generation_batch}

        def evaluate(generator: Generator) -> dict[str, float]:
            return {"sampled": float(sampled_accuracy(generator, tokenizer, test, **measure).mean())}

        with locked(options.out):
            records = train(
                model,
                tokenizer,
                problems,
                folder=options.out,
                prompt=lambda problem: build_prompt_ids(problem, tokenizer),
                config=config,
                evaluate=evaluate,
                generator=engine,
                train_actor=train_actor,
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
