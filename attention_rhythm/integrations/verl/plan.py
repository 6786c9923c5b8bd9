"""What a run will need: GPUs, memory of each by part, hours and cost, from stated assumptions. Standard library alone.

These are estimates to size a cluster by. Only the times of the paper's own runs (its Table 8) are measured, by the
paper; everything else follows from them or from the shapes of the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GB = 1e9
DOLLARS_PER_GPU_HOUR = 2.5  # an H100 of a cloud, late 2026
USABLE = 0.9  # of a GPU's 80 GB: the rest is the driver's, NCCL's and what fragmentation takes
GPU_MEMORY = 80  # GB
LOGITS_CHUNK = 2048  # tokens at a time under fused kernels


@dataclass(frozen=True)
class Shape:
    """What of a model's architecture decides memory."""

    name: str
    parameters: float  # of them all
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int


@dataclass(frozen=True)
class Job:
    """One training run."""

    shape: Shape
    gpus: int
    prompt: int  # tokens
    response: int  # tokens, the limit
    tokens_per_gpu: int  # of a micro-batch of the update, packed
    steps: int
    sequences: int = 512  # a batch
    rollout_tensor_parallel: int = 1
    rollout_memory: float = 0.6  # share of a GPU that vLLM may use while it generates
    sampled_layers: int = 5
    attn: str = "fused"
    fused_kernels: bool = False  # verl's model.use_fused_kernels: logits a chunk at a time


SHAPES = {
    "Qwen/Qwen3-4B-Base": Shape("Qwen3-4B-Base", 4.02e9, 36, 2560, 32, 8, 128, 151_936),
    "Qwen/Qwen3-8B-Base": Shape("Qwen3-8B-Base", 8.19e9, 36, 4096, 32, 8, 128, 151_936),
    "70B": Shape("a 70B model (Llama-3.1-70B)", 70.6e9, 80, 8192, 64, 8, 128, 128_256),
}

# Seconds of an RL step and GPUs, the paper's Table 8 and its runs
PAPER_STEPS = {
    ("Qwen3-4B-Base", 1024): (72.0, 8),
    ("Qwen3-4B-Base", 8192): (300.0, 8),
    ("Qwen3-8B-Base", 1024): (87.0, 16),
}
REFERENCE = ("Qwen3-4B-Base", 8192)  # what other jobs are scaled from, by parameters x tokens per GPU

SHIPPED = {
    "Qwen3-4B, 1K": Job(SHAPES["Qwen/Qwen3-4B-Base"], 8, 1024, 1024, 16_384, 500),
    "Qwen3-4B, 8K": Job(SHAPES["Qwen/Qwen3-4B-Base"], 8, 1024, 8192, 18_432, 500),
    "Qwen3-8B, 1K": Job(SHAPES["Qwen/Qwen3-8B-Base"], 16, 1024, 1024, 16_384, 600, rollout_memory=0.5),
}
BEYOND = {
    "Qwen3-4B, 32K": Job(SHAPES["Qwen/Qwen3-4B-Base"], 16, 1024, 32_768, 33_792, 500, fused_kernels=True),
    "70B, 8K": Job(SHAPES["70B"], 64, 1024, 8192, 9_216, 500, rollout_tensor_parallel=4),
    "70B, 32K": Job(SHAPES["70B"], 128, 1024, 32_768, 33_792, 500, rollout_tensor_parallel=8, fused_kernels=True),
}


def memory(job: Job) -> dict[str, float]:
    """GB on each GPU by part, under FSDP2 with float32 master weights, bfloat16 compute and gradient checkpointing.

    weights, gradients, optimizer: 4, 4 and 8 bytes a parameter, in shards. unsharded: one layer in bfloat16, gathered,
    and the one that is fetched meanwhile. activations: the input of each layer of the packed micro-batch in bfloat16,
    and one layer's own (some 14 hidden sizes). logits: float32, their gradient, and a copy. signals: q, k, v and the
    output of one sampled layer in float32 with eight extra value columns, and per-head statistics of all of them; one
    exported copy in bfloat16 where there is one. rollout: weights and KV cache of vLLM, which sleeps in the update.
    """
    s, tokens = job.shape, job.tokens_per_gpu
    shard = s.parameters / job.gpus
    width = (2 * s.heads + 2 * s.key_value_heads) * (s.head_size + 8)
    copy = 2 * s.parameters if job.attn == "exported" else 0
    rows_of_logits = min(tokens, LOGITS_CHUNK) if job.fused_kernels else tokens
    return {
        "weights": 4 * shard / GB,
        "gradients": 4 * shard / GB,
        "optimizer": 8 * shard / GB,
        "unsharded": 2 * 2 * s.parameters / s.layers / GB,
        "activations": 2 * tokens * s.hidden * (s.layers + 14) / GB,
        "logits": 3 * 4 * rows_of_logits * s.vocabulary / GB,
        "signals": (4 * tokens * width + 4 * 2 * tokens * s.heads * job.sampled_layers + copy) / GB,
        "rollout weights": 2 * s.parameters / job.rollout_tensor_parallel / GB,
        "KV cache": job.rollout_memory * GPU_MEMORY - 2 * s.parameters / job.rollout_tensor_parallel / GB,
    }


def peaks(job: Job) -> dict[str, float]:
    """GB on the fullest GPU in each of the three phases of a step."""
    m = memory(job)
    state = m["weights"] + m["optimizer"]
    forward = state + m["unsharded"] + m["logits"] / 3 + 2 * job.tokens_per_gpu * job.shape.hidden * 14 / GB
    return {
        "generate": m["weights"] + m["optimizer"] + m["rollout weights"] + max(0.0, m["KV cache"]),
        "old log-probs and signals": forward + m["signals"],
        "update": state + m["gradients"] + m["unsharded"] + m["activations"] + m["logits"],
    }


def seconds_per_step(job: Job) -> float:
    """The paper's own time where it gives one, else that of its 4B run at 8K, scaled by parameters and tokens a GPU.

    Attention's quadratic share is not in the scaling: at 32K a step of the 4B model takes about 1.6 times as long.
    """
    known = PAPER_STEPS.get((job.shape.name, job.response))
    if known and known[1] == job.gpus:
        return known[0]
    seconds, gpus = PAPER_STEPS[REFERENCE]
    reference = SHIPPED["Qwen3-4B, 8K"]
    work = job.shape.parameters * job.response / (reference.shape.parameters * reference.response)
    return seconds * work * gpus / job.gpus


def hours(job: Job) -> float:
    """Hours of the whole job."""
    return seconds_per_step(job) * job.steps / 3600


def cost(job: Job) -> float:
    """Dollars."""
    return hours(job) * job.gpus * DOLLARS_PER_GPU_HOUR


def table(jobs: dict[str, Job]) -> str:
    """The plan of several jobs, Markdown."""
    header = ["", *jobs]
    lines = [
        ["GPUs of 80 GB", *(str(j.gpus) for j in jobs.values())],
        *(
            [f"{part}, GB", *(f"{memory(j)[part]:.1f}" for j in jobs.values())]
            for part in memory(next(iter(jobs.values())))
        ),
        *(
            [f"**peak, {phase}, GB**", *(f"{peaks(j)[phase]:.0f}" for j in jobs.values())]
            for phase in peaks(next(iter(jobs.values())))
        ),
        ["fits in 80 GB", *("yes" if fits(j) else "no" for j in jobs.values())],
        ["seconds a step", *(f"{seconds_per_step(j):.0f}" for j in jobs.values())],
        ["hours", *(f"{hours(j):.0f}" for j in jobs.values())],
        ["dollars", *(f"{cost(j):,.0f}" for j in jobs.values())],
    ]
    rule = ["---", *("---:" for _ in jobs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *lines))


def fits(job: Job) -> bool:
    """Whether every phase fits into a GPU of 80 GB, with room for a KV cache."""
    return max(peaks(job).values()) <= USABLE * GPU_MEMORY and memory(job)["KV cache"] > 0


def job_of(config: Any) -> Job | None:
    """The job of a composed verl configuration; None for a model whose shape is not known here."""
    actor_rollout, trainer = config.actor_rollout_ref, config.trainer
    shape = SHAPES.get(actor_rollout.model.path)
    if shape is None:
        return None
    return Job(
        shape,
        trainer.nnodes * trainer.n_gpus_per_node,
        config.data.max_prompt_length,
        config.data.max_response_length,
        actor_rollout.actor.ppo_max_token_len_per_gpu,
        trainer.total_training_steps,
        config.data.train_batch_size * actor_rollout.rollout.n,
        actor_rollout.rollout.tensor_model_parallel_size,
        actor_rollout.rollout.gpu_memory_utilization,
        config.algorithm.rhythm.signals.num_layers or shape.layers // 3,
        config.algorithm.rhythm.attn,
        config.actor_rollout_ref.model.use_fused_kernels,
    )


def plan_of(config: Any) -> str:
    """What the run of a composed verl configuration will need, as a table."""
    job = job_of(config)
    if job is None:
        return f"no plan: the shape of {config.actor_rollout_ref.model.path} is not in {__spec__.name}"
    return table({config.trainer.experiment_name: job})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan of the shipped jobs and of larger ones."""
    parser = argparse.ArgumentParser(
        prog="python -m attention_rhythm.integrations.verl.plan", description=__doc__.split("\n")[0]
    )
    parser.parse_args(arguments)
    print(table(SHIPPED | BEYOND))


if __name__ == "__main__":
    main()
