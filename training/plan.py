"""What a training run is going to do: how much, in what memory, and for how long on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from attention_rhythm.generation.base import Generator, SamplingConfig
from training.actors.train import precision, response_logp
from training.loop import TrainConfig

TRIED_RESPONSES, TRIED_TOKENS = 16, 16  # of the generation that is timed
GIB = 2**30


def plan_of(
    model: PreTrainedModel,
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    config: TrainConfig,
    *,
    timed: bool = True,
) -> str:
    """A few lines for the person who has started the run.

    The time is measured: a short generation, and one sequence there and back. It is that of responses as long as they
    may be, so a run is shorter where responses end by themselves. Not `timed`, nothing is computed. ValueError: no
    prompts.
    """
    if not prompts:
        raise ValueError("no prompts to plan with")
    responses = config.prompts_per_step * config.samples_per_prompt
    tokens = responses * config.max_new_tokens
    time_needed = "the bar tells after the first step"
    if timed:
        seconds = seconds_of_a_step(model, generator, prompts, config)
        total = _words(seconds * config.steps)
        time_needed = f"at most about {_words(seconds)} a step, {total} in all, without evaluations"
    return (
        f"{config.steps} steps of {responses} responses ({config.prompts_per_step} problems x "
        f"{config.samples_per_prompt}), {config.gradient_steps} gradient steps each; at most {tokens:,} tokens a step, "
        f"{config.steps * tokens:,} in all\n"
        f"memory: at least {memory(model, config) / GIB:.1f} GiB (weights, gradients, AdamW's moments, the logits of a "
        f"pass of {config.optim.micro_batch}; activations come on top)\n"
        f"time: {time_needed}"
    )


def memory(model: PreTrainedModel, config: TrainConfig) -> int:
    """Bytes: four float32 numbers a parameter, and the logits of a micro-batch with their gradient in float32."""
    vocabulary = model.config.get_text_config().vocab_size
    logits = config.optim.micro_batch * config.max_new_tokens * vocabulary
    return 16 * model.num_parameters() + 2 * 4 * logits


def seconds_of_a_step(
    model: PreTrainedModel, generator: Generator, prompts: Sequence[Sequence[int]], config: TrainConfig
) -> float:
    """Seconds of a step whose responses are as long as they may be, from two short measurements."""
    responses = config.prompts_per_step * config.samples_per_prompt
    tried = min(TRIED_RESPONSES, responses)
    tokens = min(TRIED_TOKENS, config.max_new_tokens)
    sampling = SamplingConfig(tokens, samples=tried, ignore_eos=True)
    with precision(model, config.optim.bf16):
        generator.generate(prompts[:1], SamplingConfig(1))  # the first call is slower
        started = time.perf_counter()
        generator.generate(prompts[:1], sampling)
    a_token = (time.perf_counter() - started) / (tried * tokens)

    length = len(prompts[0]) + config.max_new_tokens
    ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
    response = torch.arange(length, device=model.device)[None] >= len(prompts[0])
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(True)
    started = time.perf_counter()
    with precision(model, config.optim.bf16):
        loss = response_logp(model, ids, response).sum()
    forward = time.perf_counter() - started
    loss.backward()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    both = time.perf_counter() - started
    for parameter, before in zip(model.parameters(), wanted, strict=True):
        parameter.grad = None
        parameter.requires_grad_(before)
    return responses * (config.max_new_tokens * a_token + forward + both)  # generated, read, learned from


def _words(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
