"""Is the rhythm there without softmax? The Countdown policy's warm start in three architectures, and Table 2 on each.

    python -m training.architectures

Protocol, written before the run: docs/experiments/architectures.md. Resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from analysis.couplings import Arrays, Convention, couple, find_receivers, read_all, token_table
from analysis.read_signals import HORIZONS, WINDOW
from attention_rhythm.files import locked, read_jsonl, write_json, write_jsonl, write_table
from attention_rhythm.provenance import environment
from attention_rhythm.signals import dense, implicit
from attention_rhythm.signals.entropy import response_entropy
from attention_rhythm.signals.streaming import HeadStatistics
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles, puzzles
from training import checkpoint
from training.countdown_traces import write_trace
from training.policy import (
    CONTEXT,
    MAX_RESPONSE,
    PolicySize,
    WarmStart,
    _schedule,
    build_policy,
    build_tokenizer,
    trace_batches,
)

OUT = Path(__file__).resolve().parent.parent / "results" / "architectures"
ARCHITECTURES = ("softmax", "hybrid", "mamba2")
READINGS = {  # name: architecture, and what its layers are read by
    "softmax": ("softmax", "attention"),
    "hybrid, gated DeltaNet layers": ("hybrid", "|A| normalised by row"),
    "hybrid, softmax layers": ("hybrid", "attention"),
    "mamba2": ("mamba2", "|A| normalised by row"),
}
PRIMARY = "band"  # the horizon of the verdict; "open" is read beside it
CHECKPOINT_STEPS = 100


@dataclass(frozen=True)
class Settings:
    """What decides the numbers."""

    steps: int = 500  # of the warm start, for each architecture
    seed: int = 0
    problems: int = 256  # test puzzles that are answered, one response each at T = 1
    receiver_gap: int = 4  # tokens nearer than this do not count for a receiver head
    receiver_fraction: float = 0.1  # share of the heads read that make the receiver signal
    bootstrap: int = 2000  # resamples of the problems for the 95% intervals


# --- policies ---------------------------------------------------------------------------------------------------------


def build(architecture: str, seed: int) -> PreTrainedModel:
    """The untrained network, float32: six layers of four heads and 1.2 to 1.3 million parameters, whatever it is."""
    size, tokenizer = PolicySize(), build_tokenizer()
    if architecture == "softmax":
        return build_policy(size, seed=seed)
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "tie_word_embeddings": True,
        **{name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "mamba2":
            return Mamba2ForCausalLM(
                Mamba2Config(**shared, num_heads=4, head_dim=128, expand=4, state_size=32, n_groups=1, chunk_size=32)
            )
        return Qwen3_5ForCausalLM(
            Qwen3_5TextConfig(
                **shared,
                intermediate_size=320,
                num_attention_heads=size.heads,
                num_key_value_heads=size.kv_heads,
                head_dim=size.head_dim,
                max_position_embeddings=CONTEXT,
                layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
                linear_num_key_heads=size.heads,
                linear_num_value_heads=size.heads,
                linear_key_head_dim=size.head_dim,
                linear_value_head_dim=size.head_dim,
            )
        )


def warm_started(architecture: str, settings: Settings, folder: Path) -> PreTrainedModel:
    """The policy after `settings.steps` steps on the same worked solutions; picks up its last checkpoint."""
    policy, tokenizer = build(architecture, settings.seed).train(), build_tokenizer()
    config = WarmStart(steps=settings.steps)
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.95), weight_decay=config.weight_decay)
    done, before = 0, 0.0
    if state := checkpoint.load_latest(folder, policy):
        optimizer.load_state_dict(state["optimizer"])
        done, before = state["step"], state["seconds"]
    batches, started = trace_batches(tokenizer, config, random.Random(settings.seed)), time.monotonic()
    for _ in range(done):
        next(batches)
    for step in range(done + 1, config.steps + 1):
        input_ids, labels = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, config)
        loss = policy(input_ids=input_ids, labels=labels, use_cache=False).loss  # padded on the right: no mask
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.clip)
        optimizer.step()
        if step % CHECKPOINT_STEPS == 0 or step == config.steps:
            seconds = before + time.monotonic() - started
            state = {"optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
            checkpoint.save(folder, step, policy, state, keep=1)
            print(f"{architecture}: step {step}, loss {loss.item():.3f} nats/token, {seconds:.0f} s", flush=True)
    return policy.eval()


@torch.no_grad()
def held_out_loss(policy: PreTrainedModel, seed: int) -> float:
    """Mean over tokens, in nats, on worked solutions of the development puzzles."""
    tokenizer, rng = build_tokenizer(), random.Random(seed)
    total, tokens = 0.0, 0
    rows = [written(problem, write_trace(puzzle, rng), tokenizer)
            for puzzle, problem in zip(puzzles("dev"), load_puzzles("dev"), strict=True)]  # fmt: skip
    for few in batched(rows):
        _, logprob = entropies(policy, *padded(few))
        total -= float(logprob.nansum())
        tokens += int((~logprob.isnan()).sum())
    return total / tokens


# --- texts ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sampled_responses(policy: PreTrainedModel, settings: Settings) -> list[dict[str, Any]]:
    """One response at T = 1 to each of the first test puzzles, by transformers' own `generate` whatever the policy."""
    tokenizer, problems = build_tokenizer(), load_puzzles("test", settings.problems)
    prompts = torch.tensor([build_prompt_ids(problem, tokenizer) for problem in problems])  # (P, 8): all of one length
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        out = policy.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, max_new_tokens=MAX_RESPONSE,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
    rows = []
    for problem, prompt, ids in zip(problems, prompts.tolist(), out[:, prompts.shape[1] :].tolist(), strict=True):
        end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        rows.append(
            {
                "problem_id": problem.id,
                "prompt_ids": prompt,
                "response_ids": ids[:end],
                "correct": grade(problem, text).correct,
            }
        )
    return rows


def shared_texts(settings: Settings) -> list[dict[str, Any]]:
    """A worked solution of each of the same puzzles: the text that all policies read in the second comparison."""
    tokenizer, rng = build_tokenizer(), random.Random(settings.seed + 1)
    pairs = zip(puzzles("test")[: settings.problems], load_puzzles("test", settings.problems), strict=True)
    return [written(problem, write_trace(puzzle, rng), tokenizer) for puzzle, problem in pairs]


def written(problem: Any, trace: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A worked solution in the form of a response."""
    ids = [*tokenizer(trace)["input_ids"], tokenizer.eos_token_id]
    return {"problem_id": problem.id, "prompt_ids": build_prompt_ids(problem, tokenizer), "response_ids": ids}


def batched(rows: list[dict[str, Any]], size: int = 32) -> Iterator[list[dict[str, Any]]]:
    """Rows in their order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def padded(rows: list[dict[str, Any]]) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Token ids padded on the right, and which of them are response."""
    sequences = [torch.tensor(row["prompt_ids"] + row["response_ids"]) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)  # (B, N)
    response = torch.zeros_like(ids, dtype=torch.bool)
    for b, row in enumerate(rows):
        response[b, len(row["prompt_ids"]) : len(sequences[b])] = True
    return ids, response


# --- signals ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def entropies(
    policy: PreTrainedModel, ids: Int[Tensor, "B N"], response: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Entropy and log-probability (nats) of each response token; NaN elsewhere."""
    logits = policy(input_ids=ids, use_cache=False).logits  # (B, N, V)
    return response_entropy(logits, torch.nn.Identity(), ids, response)


@torch.no_grad()
def statistics_of(
    policy: PreTrainedModel, reading: str, ids: Int[Tensor, "B N"], response: Bool[Tensor, "B N"], gap: int
) -> HeadStatistics:
    """Head statistics of the layers of one reading; horizons: those of `HORIZONS`, then that of receiver heads."""
    horizons = [*HORIZONS.values(), (gap, None)]
    architecture, read_by = READINGS[reading]
    if read_by != "attention":
        layers = implicit.implicit_layers(policy)
        return implicit.head_statistics(policy, ids, response, layers, WINDOW, horizons)
    policy.set_attn_implementation("eager")
    attentions = policy(input_ids=ids, use_cache=False, output_attentions=True).attentions
    maps = torch.stack([x for x in attentions if x is not None], 1)  # (B, L, H, N, N)
    kinds = getattr(policy.config, "layer_types", None) or []
    layers = tuple(i for i, kind in enumerate(kinds) if kind == "full_attention")
    if len(layers) != maps.shape[1]:
        raise ValueError(f"{architecture}: {maps.shape[1]} maps of {len(layers)} softmax layers")
    waad = dense.waad(maps, WINDOW)
    fai = tuple(dense.fai(maps, response, horizon) for horizon in horizons)
    return HeadStatistics(layers, dense.span(maps, response), waad, fai)


def read(
    policy: PreTrainedModel, reading: str, rows: list[dict[str, Any]], gap: int, entropy_of: PreTrainedModel
) -> list[Arrays]:
    """What `analysis.read_signals.read` gives, of the layers of one reading; entropy is that of another policy."""
    tokenizer, result = build_tokenizer(), []
    for few in batched(rows):
        ids, response = padded(few)
        statistics = statistics_of(policy, reading, ids, response, gap)
        entropy, logprob = entropies(entropy_of, ids, response)
        for b, row in enumerate(few):
            start, end = len(row["prompt_ids"]), len(row["prompt_ids"]) + len(row["response_ids"])
            arrays = {
                "span": statistics.span[b],
                "waad": statistics.waad[b, ..., start - 1 : end],
                **{
                    name: fai[b, ..., start:end]
                    for name, fai in zip([*HORIZONS, "fai_receiver"], statistics.fai, strict=True)
                },
                "token_ids": ids[b, start:end],
                "entropy": entropy[b, start:end],
                "logprob": logprob[b, start:end],
            }
            texts = tokenizer.convert_ids_to_tokens(row["response_ids"])
            result.append(
                {
                    **{name: array.numpy() for name, array in arrays.items()},
                    "response": np.array(row["problem_id"]),
                    "texts": np.array(texts),
                }
            )
    return result


# --- the experiment ---------------------------------------------------------------------------------------------------


def conventions(responses: list[Arrays], horizon: str, settings: Settings) -> tuple[Convention, np.ndarray]:
    """Table 2's convention with one horizon, and the receiver heads (L, H) bool."""
    count = round(settings.receiver_fraction * responses[0]["span"].size)
    return Convention(horizon=horizon), find_receivers(responses, count)


def table2(responses: list[Arrays], horizon: str, settings: Settings) -> dict[str, dict[str, Any]]:
    """The three statistics of Table 2 by name, with 95% bootstrap intervals over problems."""
    signals = read_all(responses, *conventions(responses, horizon, settings))
    return couple(signals, {"resamples": settings.bootstrap, "seed": settings.seed})


def verdict(trained: dict[str, Any], untrained: dict[str, Any]) -> bool:
    """The protocol's: the trained lift's interval lies above zero, and above the untrained lift."""
    low = trained["lift_ci"][0]
    control = 0.0 if np.isnan(untrained["lift"]) else untrained["lift"]
    return bool(low > max(0.0, control))


def run(settings: Settings, out: Path) -> None:
    """Write architectures.json and tokens.parquet; checkpoints and responses stay in runs/, which git ignores."""
    shared = shared_texts(settings)
    policies, rows, tables = {}, [], []
    trained = {name: warm_started(name, settings, out / "runs" / name) for name in ARCHITECTURES}
    own = {}
    for name, policy in trained.items():
        path = out / "runs" / f"{name}.jsonl"
        if not path.is_file():
            write_jsonl(path, sampled_responses(policy, settings))
        own[name] = read_jsonl(path)
        policies[name] = {
            "parameters": sum(p.numel() for p in policy.parameters()),
            "held_out_loss": held_out_loss(policy, settings.seed),  # nats a token
            "accuracy": float(np.mean([row["correct"] for row in own[name]])),
            "mean_length": float(np.mean([len(row["response_ids"]) for row in own[name]])),  # tokens
            "train_seconds": torch.load(checkpoint.steps(out / "runs" / name)[-1] / checkpoint.STATE)["seconds"],
        }
        print(name, policies[name], flush=True)
    for reading, (name, read_by) in READINGS.items():
        networks = {"trained": trained[name], "untrained": build(name, settings.seed).eval()}
        for text, texts in (("own", own[name]), ("shared", shared)):
            arrays = {
                weights: read(network, reading, texts, settings.receiver_gap, trained[name])
                for weights, network in networks.items()
            }
            for horizon in ("band", "open"):
                about = {"reading": reading, "read_by": read_by, "text": text, "horizon": horizon}
                found = {weights: table2(responses, horizon, settings) for weights, responses in arrays.items()}
                rows += [
                    {
                        **about,
                        "weights": weights,
                        "name": statistic,
                        **summary,
                        "there": verdict(summary, found["untrained"][statistic]) if weights == "trained" else None,
                    }
                    for weights, summaries in found.items()
                    for statistic, summary in summaries.items()
                ]
            if text == "own":
                signals = read_all(arrays["trained"], *conventions(arrays["trained"], PRIMARY, settings))
                tables.append(token_table(arrays["trained"], signals).assign(reading=reading))
    write_json(
        out / "architectures.json",
        {
            "settings": asdict(settings)
            | {"convention": asdict(Convention(horizon=PRIMARY)), "window": WINDOW, "threads": 1},
            "environment": environment(),
            "policies": policies,
            "statistics": rows,
        },
    )
    write_table(out / "tokens.parquet", pd.concat(tables, ignore_index=True))


def main() -> None:
    """Run the protocol, on one thread."""
    parser = argparse.ArgumentParser(prog="python -m training.architectures", description="The rhythm without softmax.")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of each warm start")
    parser.add_argument("--problems", type=int, default=Settings.problems, help="test puzzles")
    settings = Settings(**vars(parser.parse_args()))
    torch.set_num_threads(1)  # the same policies on every machine, up to how its processor rounds
    OUT.mkdir(parents=True, exist_ok=True)
    with locked(OUT):
        run(settings, OUT)


if __name__ == "__main__":
    main()
