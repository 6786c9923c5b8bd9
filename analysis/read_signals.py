"""Stage `signals`: per-head statistics of every sampled response, and the token table made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.settings import SignalsSettings
from attention_rhythm.errors import ReproError
from attention_rhythm.files import atomic_folder, read_jsonl, write_npz
from attention_rhythm.memory import in_halves
from attention_rhythm.models import load_model
from attention_rhythm.signals import dense
from attention_rhythm.signals.architecture import attention_layers
from attention_rhythm.signals.forward import forward_statistics
from attention_rhythm.signals.heads import head_sets, select_layers
from attention_rhythm.signals.reading import SignalConfig, mean_over
from evaluation.settings import Run

WINDOW = 10  # W of Eq. 9
EXAMPLE_TOKENS = 160  # of the response whose attention maps are drawn
# FAI of each head by these horizons: that of the paper's analysis (App. A.1: from the token itself to the end of the
# response) and that of its RL runs (Eq. 10). A third, that of the receiver heads, comes from the settings.
Horizons = dict[str, tuple[int, int | None]]
HORIZONS: Horizons = {"fai_open": (0, None), "fai_band": (10, 100)}


def stage(run: Run, settings: SignalsSettings) -> None:
    """Write signals/NUMBER.npz for each sampled response, and maps.npz for the example."""
    model, tokenizer = load_model(run.model.id, dtype=run.model.dtype, device=run.model.device)
    rows = [row for row in read_jsonl(run.path("responses.jsonl")) if row["kind"] == "sampled"]
    if not 0 <= settings.example < len(rows):
        raise ReproError(f"[signals] example = {settings.example}, but there are {len(rows)} sampled responses")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt_ids"]) + len(rows[i]["response_ids"]))
    horizons = {**HORIZONS, "fai_receiver": (settings.receiver_gap, None)}
    with atomic_folder(run.path("signals")) as folder, tqdm(total=len(rows), desc="signals", unit="response") as bar:
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            responses = [rows[i] for i in batch]
            statistics = in_halves(lambda few: read(model, few, horizons), responses, "batch_size")
            for number, arrays in zip(batch, statistics, strict=True):
                texts = tokenizer.batch_decode([[i] for i in rows[number]["response_ids"]])
                write_npz(folder / f"{number:04d}.npz", response=rows[number]["problem_id"], texts=texts, **arrays)
            bar.update(len(batch))
    example = load(run.path("signals"))[settings.example]
    write_npz(run.path("maps.npz"), **example_maps(model, rows[settings.example], example))


def read(model: PreTrainedModel, rows: list[dict[str, Any]], horizons: Horizons) -> list[dict[str, np.ndarray]]:
    """For each response of n tokens: span (L, H), waad (L, H, n + 1) whose first column is the row before the response,
    one FAI (L, H, n) for each horizon, token_ids, entropy and logprob (n,). Every layer is read."""
    sequences = [torch.tensor(row["prompt_ids"] + row["response_ids"]) for row in rows]
    starts = [len(row["prompt_ids"]) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(model.device)  # (B, N)
    response = torch.zeros_like(ids, dtype=torch.bool)
    for b, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
        response[b, start : len(sequence)] = True
    layers = attention_layers(model)
    statistics, entropy, logprob = forward_statistics(model, ids, response, layers, WINDOW, list(horizons.values()))
    result = []
    for b, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
        own = slice(start, len(sequence))
        arrays = {
            "span": statistics.span[b],
            "waad": statistics.waad[b, ..., start - 1 : len(sequence)],
            **{name: fai[b, ..., own] for name, fai in zip(horizons, statistics.fai, strict=True)},
            "token_ids": ids[b, own],
            "entropy": entropy[b, own],
            "logprob": logprob[b, own],
        }
        result.append({name: array.cpu().numpy() for name, array in arrays.items()})
    return result


def example_maps(model: PreTrainedModel, row: dict[str, Any], read: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Attention among the first tokens of a response, averaged over its local and its global heads (Fig. 2, left).

    read: what the stage has read of this response. The heads are those of the curves below the maps: drawn from all
    layers and the whole response (Eq. 8).
    """
    start = len(row["prompt_ids"])
    ids = torch.tensor([row["prompt_ids"] + row["response_ids"][:EXAMPLE_TOKENS]], device=model.device)
    layers = attention_layers(model)
    maps = dense.attention_maps(model, ids, torch.ones_like(ids, dtype=torch.bool), layers)[0]  # (L, H, N, N)
    local, glob = head_sets(torch.from_numpy(read["span"]), SignalConfig.head_fraction)

    def mean(heads: torch.Tensor) -> np.ndarray:
        """Of the maps of some heads (L, H): the part among response tokens, (n, n)."""
        return maps[heads.to(maps.device)].mean(0)[start:, start:].to(torch.float16).cpu().numpy()

    return {"local": mean(local), "global": mean(glob), "start": np.array(0), "response": np.array(row["problem_id"])}


def load(folder: Path) -> list[dict[str, np.ndarray]]:
    """What the stage wrote, in the order of the responses."""
    result = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            result.append({name: arrays[name] for name in arrays.files})
    return result


def signals_of(
    response: dict[str, np.ndarray],
    config: SignalConfig,
    span: Float[Tensor, "l H"] | None = None,
    horizons: Horizons = HORIZONS,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """WAAD (tokens) and FAI of one response of `signals/`, float32, over the layers, heads and rows of `config`.

    Args:
        response: what `read` gave; its window is WINDOW.
        span: draws the head sets (Eq. 8), of the layers of `config`; None: the response's own.
        horizons: that it was read by.
    """
    layers = list(select_layers(len(response["span"]), config.layers, config.num_layers))
    span = torch.from_numpy(response["span"][layers]) if span is None else span  # (l, H)
    local, glob = head_sets(span, config.head_fraction)  # (l, H) each
    rows = {"token": slice(1, None), "predictor": slice(None, -1)}[config.row]
    horizon = next(name for name, bounds in horizons.items() if bounds == config.horizon)
    waad = mean_over(torch.from_numpy(response["waad"][layers])[..., rows], local)  # (n,)
    return waad, mean_over(torch.from_numpy(response[horizon][layers]), glob)
