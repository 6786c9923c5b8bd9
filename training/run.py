"""Train any Hugging Face causal LM by GRPO with credit from attention, on any task that has a grader.

    python -m training.run --model FOLDER --task countdown --credit.strategy coupled_rhythm --out results/my-run

Every setting of the loop is an option; --help has them with their defaults. What it is about to do, how much memory
that takes and how long, is printed before it begins. The loop is the one of the embedded experiment (loop.py). On one
GPU: bfloat16 autocast over float32 weights, micro-batches, gradient checkpointing. Killed, the same command goes on
from its last checkpoint; at the end the trained model is saved as an ordinary folder, OUT/model, for evaluation.run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from attention_rhythm.commands import run_command
from attention_rhythm.errors import UsageError
from attention_rhythm.files import atomic_folder, locked
from attention_rhythm.generation.base import Generator
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import check_spec, load_model
from attention_rhythm.tasks.problems import load_problems
from attention_rhythm.tasks.prompts import build_prompt_ids
from training.actors.megatron import Layout, MegatronTrainActor, check
from training.actors.megatron_ranks import MegatronLeader, MegatronProcesses, follow, join
from training.actors.train import TrainActor
from training.loop import TrainConfig, train
from training.measuring import sampled_accuracy
from training.plan import plan_of


@dataclass(frozen=True)
class Options:
    """Train any Hugging Face causal LM by GRPO with credit from attention; killed, the same command goes on."""

    model: str  # smollm2-135m-instruct, a folder, or a hub id
    out: Path  # the folder of the run: metrics.jsonl, checkpoints/, and at the end model/
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    task: str = "countdown"  # its `train` split is trained on
    held_out: int = 64  # test problems of an evaluation
    infer: Literal["hf", "vllm"] = "hf"  # the engine that generates
    train: Literal["torch", "megatron"] = "torch"  # the engine that updates (docs/engines.md)
    tensor_parallel: int = 1  # of Megatron-core
    pipeline_parallel: int = 1  # of Megatron-core
    data_parallel: int = 1  # of Megatron-core; under torchrun: what is left
    sequence_parallel: bool = False  # of Megatron-core
    device: Literal["cpu", "cuda", "auto"] = "auto"  # auto: cuda if there is one


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    def work() -> int:
        """Read the command line, and do what it says."""
        try:
            options = tyro.cli(Options, prog="python -m training.run", args=arguments)
        except ValueError as error:  # a setting outside its range, which its dataclass refuses
            raise UsageError(str(error)) from error
        return run(options)

    return run_command(work, after_interrupt="the same command goes on from the last checkpoint")


def run(options: Options) -> int:
    """Train, and save the model; 0, also for a rank of torchrun that only follows."""
    config = options.config
    check_spec(options.model)  # costs nothing; problems may come from the hub
    problems = load_problems(options.task, split="train")
    test = load_problems(options.task, limit=options.held_out)
    # weights in float32: a step of 1e-6 does not move a bfloat16 weight
    model, tokenizer = load_model(options.model, dtype="float32", device=options.device)
    train_actor: Callable[..., Any] = TrainActor
    if options.train == "megatron":
        layout = Layout(options.tensor_parallel, options.pipeline_parallel, sequence_parallel=options.sequence_parallel)
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
        prompts = [build_prompt_ids(problem, tokenizer) for problem in problems[: config.prompts_per_step]]
        generator = engine or HFGenerator(model, tokenizer)
        # Megatron's ranks are forked, which is safe only while this process has computed nothing
        timed = options.train == "torch"
        print(plan_of(model, generator, prompts, config, timed=timed), flush=True)
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
    print(
        f"held-out accuracy {records[0]['eval_sampled']:.3f} -> {records[-1]['eval_sampled']:.3f}; {options.out}/model"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
