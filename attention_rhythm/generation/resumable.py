"""Long generations that survive a kill: finished completions are on disk after each batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from attention_rhythm.errors import ReproError
from attention_rhythm.files import append_jsonl, resume_jsonl, sha256_of, shown
from attention_rhythm.generation.base import Completion, Generator, SamplingConfig
from attention_rhythm.memory import in_halves

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A prompt to be completed, under an id that is unique in its file."""

    id: str
    prompt_ids: list[int]


def complete(
    generator: Generator, requests: Sequence[Request], sampling: SamplingConfig, path: Path, batch_size: int, title: str
) -> list[dict[str, Any]]:
    """Complete the requests that `path` does not hold yet, batch by batch, and return all records in request order.

    Args:
        path: JSON lines of finished records {id, sample, prompt, token_ids, text, logprobs, finish_reason}; `prompt` is
            the hash of the prompt's ids. Made if absent.
        batch_size: rows decoded at once, so batch_size // samples prompts.

    Raises:
        ReproError: `path` has completions of other prompts under these ids.
    """
    prompt_of = {r.id: sha256_of(r.prompt_ids)[:16] for r in requests}
    records = {(r["id"], r["sample"]): r for r in resume_jsonl(path) if r["id"] in prompt_of}
    if strange := [r["id"] for r in records.values() if r.get("prompt") != prompt_of[r["id"]]]:
        raise ReproError(
            f"{shown(path)}: its completion of {strange[0]} is of another prompt: the problems have changed since;"
            " remove this file to begin anew"
        )
    samples = range(sampling.samples)
    todo = [r for r in requests if any((r.id, s) not in records for s in samples)]
    todo.sort(key=lambda r: len(r.prompt_ids))  # neighbours of one length waste no work on padding
    with tqdm(total=len(requests), initial=len(requests) - len(todo), desc=title, unit="prompt") as bar:
        tokens, started = 0, bar.format_dict["elapsed"]
        for batch in _batches(todo, max(1, batch_size // sampling.samples)):
            prompts = [r.prompt_ids for r in batch]
            completions = generate_in_parts(generator, prompts, sampling, len(prompts), "batch_size")
            numbers = [(r.id, s) for r in batch for s in samples]
            new = [
                {"id": i, "sample": s, "prompt": prompt_of[i], **asdict(c)}
                for (i, s), c in zip(numbers, completions, strict=True)
            ]
            append_jsonl(path, *new)
            records |= {(r["id"], r["sample"]): r for r in new}
            tokens += sum(len(c.token_ids) for c in completions)
            elapsed = max(bar.format_dict["elapsed"] - started, 1e-9)
            bar.set_postfix_str(f"{tokens / elapsed:.0f} tok/s", refresh=False)
            bar.update(len(batch))
    return [records[r.id, s] for r in requests for s in samples]


def generate_in_parts(
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    size: int,
    setting: str,
    title: str | None = None,
) -> list[Completion]:
    """`generator.generate` with `size` prompts at a time, or with half as many where memory does not suffice.

    setting: the name of what decides `size`. title: of a bar, which is drawn while it lasts; None: no bar.
    OutOfMemory where the halves do not fit either.
    """
    completions: list[Completion] = []
    with tqdm(total=len(prompts), desc=title, unit="prompt", leave=False, disable=title is None) as bar:
        for part in _batches(prompts, size):
            completions += in_halves(lambda few: generator.generate(few, sampling), part, setting)
            bar.update(len(part))
    return completions


def _batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))
