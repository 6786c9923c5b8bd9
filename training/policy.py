"""The embedded experiment's policy: a small Qwen3 from scratch, its tokenizer, and its warm start on worked solutions.

The result is an ordinary Hugging Face folder (tokenizer.json, config.json, generation_config.json, model.safetensors in
bfloat16) that transformers and vLLM load without code of its own. Every word of a worked solution is one token, and so
is every number up to MAX_VALUE; the chat template writes the prompt, so that `build_prompt_ids` serves
this policy like any other model:

    <bos> Question: 3 7 8 -> 29 Solution:

    python -m training.policy OUT --steps N --seed S
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from attention_rhythm.commands import run_command
from attention_rhythm.errors import UsageError
from attention_rhythm.files import atomic_folder
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import MAX_VALUE, Puzzle, load_puzzles, problem, puzzles
from training.countdown_traces import ANSWER_CLOSE, ANSWER_OPEN, FOUND, TRY_AGAIN, TraceConfig, write_trace
from training.measuring import sampled_accuracy

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
WORDS = ["Question:", "->", "Solution:", "+", "-", "*", "/", "=", ",", "(", ")"]
WORDS += [TRY_AGAIN, FOUND, ANSWER_OPEN, ANSWER_CLOSE]
CHAT_TEMPLATE = "{{ bos_token }} {{ messages[-1]['content'] }}{% if add_generation_prompt %} Solution:{% endif %}"
MAX_RESPONSE = 96  # tokens
CONTEXT = 128  # tokens; a prompt has 8
IGNORED = -100  # label of a token that is not learned


@dataclass(frozen=True)
class PolicySize:
    """Sizes of the network; the default has 1.2 million parameters."""

    layers: int = 6
    hidden: int = 128
    intermediate: int = 384
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32


@dataclass(frozen=True)
class WarmStart:
    """Supervised learning on worked solutions of training puzzles."""

    steps: int = 1200
    batch: int = 32  # worked solutions a step
    lr: float = 3e-3  # rises over `warmup` steps, then falls along a cosine to `final` times itself
    warmup: int = 50
    final: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0  # of the gradient's norm
    trace: TraceConfig = field(default_factory=TraceConfig)


# --- tokenizer and network --------------------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; words are set apart by spaces, and decoding puts one space between them."""
    words = [PAD, BOS, EOS, UNKNOWN, *WORDS, *map(str, range(MAX_VALUE + 1))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def build_policy(size: PolicySize = PolicySize(), *, seed: int = 0) -> Qwen3ForCausalLM:
    """The untrained network in float32, its weights drawn by `seed` (the global random state is left alone)."""
    tokenizer = build_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Qwen3ForCausalLM(config)
    policy.generation_config = GenerationConfig(**ids)
    return policy


# --- warm start -------------------------------------------------------------------------------------------------------


def warm_start(
    folder: Path | str,
    config: WarmStart = WarmStart(),
    size: PolicySize = PolicySize(),
    *,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train a fresh policy on worked solutions and write its folder; the same bytes for the same arguments.

    (For one number of threads: sums in another order round differently.) on_step is told the number of steps done and
    the loss, in nats a token.
    """
    policy, tokenizer = build_policy(size, seed=seed).train(), build_tokenizer()
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.95), weight_decay=config.weight_decay)
    batches = trace_batches(tokenizer, config, random.Random(seed))
    for step in range(1, config.steps + 1):
        input_ids, labels = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, config)
        attention_mask = input_ids != tokenizer.pad_token_id
        loss = policy(input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.clip)
        optimizer.step()
        on_step(step, loss.item())
    with atomic_folder(folder) as temporary:
        policy.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _schedule(step: int, config: WarmStart) -> float:
    if step <= config.warmup:
        return step / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final + (1 - config.final) * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def trace_batches(
    tokenizer: PreTrainedTokenizerFast, config: WarmStart, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (input ids, labels), both (config.batch, N), padded on the right; prompt and padding are not learned.

    Solutions of like length share a batch, or half of the work would be padding.
    """
    pool = puzzles("train")
    together = 8  # batches
    while True:
        examples = [
            trace_example(puzzle, tokenizer, rng, config.trace)
            for puzzle in rng.choices(pool, k=together * config.batch)
        ]
        examples.sort(key=lambda example: len(example[0]))
        starts = list(range(0, len(examples), config.batch))
        rng.shuffle(starts)
        for start in starts:
            chosen = examples[start : start + config.batch]
            yield (
                _padded([ids for ids, _ in chosen], tokenizer.pad_token_id),
                _padded([labels for _, labels in chosen], IGNORED),
            )


def trace_example(
    puzzle: Puzzle, tokenizer: PreTrainedTokenizerFast, rng: random.Random, config: TraceConfig
) -> tuple[list[int], list[int]]:
    """Token ids of prompt, worked solution and end, and their labels."""
    prompt = build_prompt_ids(problem(puzzle, ""), tokenizer)
    solution = [*tokenizer(write_trace(puzzle, rng, config))["input_ids"], tokenizer.eos_token_id]
    return prompt + solution, [IGNORED] * len(prompt) + solution


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m training.policy", description="Make a warm-started policy.")
    parser.add_argument("out", type=Path, help="the folder to write (one that exists is replaced)")
    parser.add_argument("--steps", type=int, default=WarmStart.steps)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return run_command(lambda: make(options.out, options.steps, options.seed))


def make(out: Path, steps: int, seed: int) -> None:
    """Make the warm start, and say how it does on the development puzzles.

    UsageError: no steps at all, or a file in the folder's place.
    """
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: a file, not a folder")
    torch.set_num_threads(1)  # the same policy on every machine, up to how its processor rounds
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        """A line every 50 steps."""
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step}/{steps}  loss {loss:.3f} nats/token  {seconds:.0f} s", flush=True)

    warm_start(out, WarmStart(steps=steps), seed=seed, on_step=report)
    policy, tokenizer = load_model(str(out))
    dev, generator = load_puzzles("dev"), HFGenerator(policy, tokenizer)
    for name, samples in (("sampled (T = 1)", 1), ("greedy", 0)):
        right = sampled_accuracy(
            generator, tokenizer, dev, samples=samples, max_new_tokens=MAX_RESPONSE, batch=len(dev)
        )
        print(f"dev accuracy, {name}: {right.mean():.3f} of {len(dev)}")


if __name__ == "__main__":
    sys.exit(main())
