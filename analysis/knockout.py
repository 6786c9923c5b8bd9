"""Stage `knockout`: are high-FAI punctuation tokens anchors, or an artefact of syntax? (open question 1)

Later tokens of a sampled response may not attend to one position; the text stays what it is. An anchor is missed: the
predictions behind it change, and the answer becomes less likely. But a position that is attended to more loses more
attention, which is what high FAI says; so each high-FAI position is held against one of low FAI in the same response,
of the same class (punctuation, word, number) and fifth, whose loss of attention, over all heads, is about the same.

Three ways: in all heads; in the global heads, those that FAI is read from; and in all heads with the weight moved to
the nearest other punctuation before it, which a mere separator would not be missed for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.read_signals import HORIZONS, load
from analysis.settings import KnockoutSettings
from analysis.token_text import answer_tokens, kind_of
from attention_rhythm.errors import ReproError
from attention_rhythm.files import append_jsonl, read_jsonl, resume_jsonl, write_json, write_table
from attention_rhythm.models import load_model
from attention_rhythm.signals.heads import head_sets
from attention_rhythm.signals.knockout import knock_out
from attention_rhythm.signals.reading import SignalConfig, mean_over
from attention_rhythm.statistics import bootstrap_interval, sign_flip_test
from evaluation.settings import Run

CLASSES = ("punctuation", "word", "number")
WAYS = ("all heads", "global heads", "moved")
FIFTHS = 5
HIGH, LOW = 0.9, 0.5  # quantiles of FAI within a response, at or above and at or below which it is high or low
MEASURES = ("kl", "rest", "answer")
COLUMNS = ["response", "pair", "class", "role", "way", "position", "fai", "mass", *MEASURES]


@dataclass(frozen=True)
class Pair:
    """A high-FAI position of a response and its control, both in tokens of the response."""

    kind: str
    high: int
    control: int


def stage(run: Run, settings: KnockoutSettings) -> None:
    """Write knockout.csv, a row a knock-out, and knockout.json, the differences of the pairs."""
    model, _ = load_model(run.model.id, dtype=run.model.dtype, device=run.model.device)
    sampled = [row for row in read_jsonl(run.path("responses.jsonl")) if row["kind"] == "sampled"]
    read = load(run.path("signals"))
    partial = run.partial("knockout.csv")
    done = {record["response"]: record["rows"] for record in resume_jsonl(partial)}
    for row, arrays in zip(tqdm(sampled, desc="knock-out", unit="response"), read, strict=True):
        if row["problem_id"] not in done:
            rows = one_response(model, row, arrays, settings)
            append_jsonl(partial, {"response": row["problem_id"], "rows": rows})
            done[row["problem_id"]] = rows
    rows = [own for row in sampled for own in done[row["problem_id"]]]
    if not rows:
        raise ReproError("no response has a pair of positions that are alike but for their FAI")
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_table(run.path("knockout.csv"), table)
    write_json(run.path("knockout.json"), {"settings": asdict(settings), "pairs": summarise(table, run.seed)})


def one_response(
    model: PreTrainedModel, row: dict[str, Any], arrays: dict[str, np.ndarray], settings: KnockoutSettings
) -> list[dict[str, Any]]:
    """Knock out both positions of every pair of one response, in each way."""
    start = len(row["prompt_ids"])
    fai, mass, heads = signals_of(arrays)
    kinds = np.array([kind_of(text) for text in arrays["texts"]])
    pairs = choose_pairs(fai, mass, kinds, settings)
    ids = torch.tensor(row["prompt_ids"] + row["response_ids"], device=model.device)
    places = [place for pair in pairs for place in (pair.high, pair.control)]
    punctuation = np.flatnonzero(kinds == "punctuation")
    found = []
    for way in WAYS:
        targets = [nearest_before(punctuation, place) for place in places] if way == "moved" else [None] * len(places)
        todo = [i for i, target in enumerate(targets) if way != "moved" or target is not None]
        for first in range(0, len(todo), settings.batch_size):
            few = todo[first : first + settings.batch_size]
            effect = knock_out(
                model,
                ids,
                torch.tensor([start + places[i] for i in few], device=ids.device),
                answer=answer_of(row, arrays["texts"].tolist(), start),
                distances=settings.distances,
                heads=heads.to(ids.device) if way == "global heads" else None,
                moved_to=torch.tensor([start + targets[i] for i in few], device=ids.device) if way == "moved" else None,
            )
            kl = effect.kl.nanmean(1)
            for n, i in enumerate(few):
                pair, role = pairs[i // 2], ("high", "control")[i % 2]
                about = {"response": row["problem_id"], "pair": i // 2, "class": pair.kind, "role": role, "way": way}
                measured = {"kl": kl[n].item(), "rest": effect.rest[n].item(), "answer": effect.answer[n].item()}
                place = places[i]
                found.append(
                    {**about, "position": place, "fai": float(fai[place]), "mass": float(mass[place]), **measured}
                )
    return found


def signals_of(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """FAI of the global heads, (n,), of all layers to the end; attention received in sum by all heads, in the mean over
    them, (n,); and the global heads, (L, H)."""
    _, glob = head_sets(torch.from_numpy(arrays["span"]), SignalConfig.head_fraction)
    name = next(name for name, bounds in HORIZONS.items() if bounds == (0, None))
    received = torch.from_numpy(arrays[name])  # (L, H, n), means over later rows
    later = np.arange(received.shape[-1], 0, -1)
    return mean_over(received, glob).numpy(), received.mean((0, 1)).numpy() * later, glob


def choose_pairs(fai: np.ndarray, mass: np.ndarray, kinds: np.ndarray, settings: KnockoutSettings) -> list[Pair]:
    """For each class the highest FAI of a response with a control: same class and fifth, low FAI, the nearest mass.

    fai, mass, kinds: (n,). Positions have `settings.behind` tokens behind them. A pair whose masses differ by more than
    `settings.mass_ratio` is none; a control serves once.
    """
    length = len(fai)
    eligible = (np.arange(length) < length - settings.behind) & ~np.isnan(fai)
    if not eligible.any():
        return []
    high, low = np.quantile(fai[eligible], [HIGH, LOW])
    if not low < high:
        return []
    fifth = np.arange(length) * FIFTHS // length
    used: set[int] = set()
    found = []
    for kind in CLASSES:
        own = np.flatnonzero(eligible & (kinds == kind) & (fai >= high))
        chosen = 0
        for place in own[np.argsort(-fai[own], kind="stable")].tolist():
            alike = np.flatnonzero(eligible & (kinds == kind) & (fifth == fifth[place]) & (fai <= low))
            alike = np.array([p for p in alike.tolist() if p not in used], dtype=int)
            if chosen == settings.pairs or not len(alike):
                continue
            distance = np.abs(np.log(mass[alike]) - np.log(mass[place]))
            if distance.min() > np.log(settings.mass_ratio):
                continue
            control = int(alike[distance.argmin()])
            used.add(control)
            found.append(Pair(kind, int(place), control))
            chosen += 1
    return found


def nearest_before(places: np.ndarray, position: int) -> int | None:
    """The last of some places that is before a position; None where there is none."""
    before = places[places < position]
    return int(before[-1]) if len(before) else None


def answer_of(row: dict[str, Any], texts: Sequence[str], start: int) -> slice | None:
    """The tokens of the response's own answer, where it gives one, in prompt and response."""
    own = answer_tokens(texts, row["extracted"])
    return None if own is None else slice(start + own.start, start + own.stop)


def summarise(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """For each way and class: high minus control, means over pairs of a response, then over responses, with 95%
    bootstrap intervals over responses and a sign-flip test; of `kl`, `rest` and `answer`, in nats."""
    key = ["way", "class", "response", "pair"]
    wide = table.set_index([*key, "role"])[[*MEASURES, "mass", "fai"]].astype(float).unstack("role")
    rows = []
    for (way, kind), own in wide.groupby(level=["way", "class"], sort=False):
        row: dict[str, Any] = {
            "way": way,
            "class": kind,
            "mass_ratio": _ratio(own["mass"]),
            "fai_ratio": _ratio(own["fai"]),
        }
        for measure in MEASURES:
            pairs = (own[measure]["high"] - own[measure]["control"]).dropna()
            difference = pairs.groupby(level="response").mean()
            if difference.empty:
                continue
            interval = bootstrap_interval(difference, seed=seed)
            row |= {"pairs": len(pairs), "responses": len(difference)}
            row[measure] = {
                "high": float(own[measure]["high"].mean()),
                "control": float(own[measure]["control"].mean()),
                "difference": interval.estimate,
                "ci": [interval.low, interval.high],
                "p_value": sign_flip_test(difference, seed=seed),
            }
        rows.append(row)
    return rows


def _ratio(pair: pd.DataFrame) -> float:
    """The geometric mean of high over control."""
    return float(np.exp(np.log(pair["high"] / pair["control"]).mean()))
