"""Stage `perturbation`: force another token at positions of high and of low FAI (Sec. 4.3; Table 1, Fig. 3).

At each chosen position of a greedy response the most likely tokens other than the original are forced, one at a time,
and decoding goes on greedily. Eq. 11 compares the content words that follow with those of the original. Early positions
change more text by themselves, punctuation is forced to other things than words are, and FAI is spread evenly over
neither; so beside the paper's two groups there is a third: for each high-FAI position, the position of lowest FAI of
its own kind (word, number, punctuation, space) in its own part of the response (`matched`; position_groups.py).

All continuations of several responses are decoded in one batch; those of one response share its keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.position_groups import choose_positions, compared
from analysis.settings import PerturbationSettings
from analysis.token_text import KINDS, kind_of, pieces_of
from attention_rhythm.errors import ReproError
from attention_rhythm.files import append_jsonl, read_jsonl, resume_jsonl, write_json, write_jsonl
from attention_rhythm.generation.conventions import ResponseText, stop_token_ids
from attention_rhythm.generation.hf import continue_rows
from attention_rhythm.memory import in_halves
from attention_rhythm.models import load_model
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from evaluation.settings import Run

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|\d+(?:[.,]\d+)*")


@cache
def stop_words() -> frozenset[str]:
    """The English list of the package stop-words."""
    from stop_words import get_stop_words

    return frozenset(get_stop_words("en"))


def content_words(text: str) -> set[str]:
    """Lower-cased words and numbers of a text, less English stop words: S of Eq. 11."""
    return {word for word in _WORD.findall(text.lower()) if word not in stop_words()}


def jaccard(a: str, b: str) -> float:
    """Eq. 11: |S(a) & S(b)| / |S(a) | S(b)|; NaN where neither text has a content word."""
    first, second = content_words(a), content_words(b)
    return len(first & second) / len(first | second) if first | second else float("nan")


@torch.inference_mode()
def read_response(
    model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], horizon: tuple[int, int | None]
) -> tuple[np.ndarray, torch.Tensor]:
    """FAI (n,) of a response from all layers, and the logits (n, V) that predicted each of its tokens."""
    ids = torch.tensor([[*prompt, *response]], device=model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    is_response = torch.arange(ids.shape[1], device=ids.device)[None] >= len(prompt)
    config = SignalConfig(horizon=horizon, layers="all", num_layers=None)
    fai = attention_signals(model, ids, mask, is_response, config).fai[0, len(prompt) :]
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(response) + 1).logits[0, :-1]
    return fai.cpu().numpy(), logits


def candidates(logits: torch.Tensor, original: int, count: int, excluded: set[int]) -> list[tuple[int, float]]:
    """The `count` most likely tokens of logits (V,) other than the original and the excluded, with probabilities."""
    probabilities = logits.float().softmax(-1)
    best = probabilities.topk(min(count + len(excluded) + 1, len(probabilities)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(token, p) for token, p in pairs if token != original and token not in excluded][:count]


def stage(run: Run, settings: PerturbationSettings) -> None:
    """Write perturbation.jsonl, one row a forced token, and perturbation.json, the summary."""
    model, tokenizer = load_model(run.model.id, dtype=run.model.dtype, device=run.model.device)
    stops = stop_token_ids(model.generation_config, tokenizer)
    greedy = [r for r in read_jsonl(run.path("responses.jsonl")) if r["kind"] == "greedy"][: settings.problems]
    partial = run.partial("perturbation.jsonl")
    done = {record["problem"]: record["rows"] for record in resume_jsonl(partial)}
    todo = [response for response in greedy if response["problem_id"] not in done]
    with tqdm(total=len(greedy), initial=len(greedy) - len(todo), desc="perturbation", unit="response") as bar:
        for start in range(0, len(todo), settings.batch_size):
            batch = todo[start : start + settings.batch_size]
            for record in in_halves(lambda few: perturb(model, tokenizer, few, stops, settings), batch, "batch_size"):
                append_jsonl(partial, record)
                done[record["problem"]] = record["rows"]
            bar.update(len(batch))
    rows = [row for response in greedy for row in done[response["problem_id"]]]
    if not rows:
        raise ReproError("no response is long enough to be perturbed; raise max_new_tokens")
    write_jsonl(run.path("perturbation.jsonl"), rows)
    write_json(run.path("perturbation.json"), {"settings": asdict(settings), **summarise(rows, run.seed)})


def perturb(
    model: PreTrainedModel, tokenizer, responses: list[dict[str, Any]], stops: set[int], settings: PerturbationSettings
) -> list[dict[str, Any]]:
    """Perturb a few greedy responses in one batch; {problem, rows} for each."""
    horizon = settings.horizon
    rows: list[list[dict[str, Any]]] = [[] for _ in responses]
    group, visible, first, limits, owners = [], [], [], [], []
    prefixes = []
    text = ResponseText(tokenizer, stops)
    for number, response in enumerate(responses):
        prompt, ids = response["prompt_ids"], response["response_ids"]
        prefixes.append(prompt + ids)
        fai, logits = read_response(model, prompt, ids, horizon)
        eligible = np.array([token not in stops for token in ids])
        eligible[-1:] = False  # nothing follows the last token
        kinds = [kind_of(piece, token, stops) for piece, token in zip(pieces_of(text, ids), ids, strict=True)]
        for name, positions in choose_positions(fai, kinds, settings.positions, eligible).items():
            if name not in settings.groups:
                continue
            for p in positions:
                original = text(ids[p + 1 :])
                word = tokenizer.decode([ids[p]])
                for rank, (token, probability) in enumerate(candidates(logits[p], ids[p], settings.candidates, stops)):
                    rows[number].append(
                        {
                            "problem": response["problem_id"],
                            "group": name,
                            "position": p,
                            "relative_position": p / len(ids),
                            "fai": float(fai[p]),
                            "token": word,
                            "kind": kinds[p],
                            "candidate": tokenizer.decode([token]),
                            "rank": rank + 1,
                            "probability": probability,
                            "original": original,
                        }
                    )
                    owners.append(rows[number][-1])
                    group.append(number)
                    visible.append(len(prompt) + p)
                    first.append(token)
                    limits.append(max(len(ids) - p - 1, 1))  # as much text as the original had
    if owners:
        continued, _ = continue_rows(
            model, prefixes, group, visible, first, limits, stops, lambda logits, _rows, _step: logits.argmax(-1)
        )
        for row, tokens in zip(owners, continued, strict=True):
            row["continuation"] = text(tokens)
            row["jaccard"] = jaccard(row["original"], row["continuation"])
    return [{"problem": r["problem_id"], "rows": own} for r, own in zip(responses, rows, strict=True)]


def summarise(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Mean Jaccard of each group, and of high FAI against each other group (`compared`); `by_kind`: the same of the
    positions of one kind of token. A position's value is the mean over its candidates."""
    frame = pd.DataFrame(rows)
    frame["jaccard"] = frame["jaccard"].astype(float)
    kinds = {kind: frame[frame["kind"] == kind] for kind in KINDS if (frame["kind"] == kind).any()}
    return {
        **compared(frame, "jaccard", seed),
        "by_kind": {kind: compared(own, "jaccard", seed) for kind, own in kinds.items()},
    }
