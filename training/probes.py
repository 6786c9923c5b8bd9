"""Frozen probe responses: do WAAD, FAI and credit point at the same tokens after training as before it?

The warm start's own responses to a few test puzzles are read again by the policy that is trained, at every evaluation.
So what changes is how the policy reads, not what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import PreTrainedModel

from analysis.couplings import Arrays, Convention, counts, find_receivers, read_all
from analysis.read_signals import Horizons, read
from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.generation.base import Generator, SamplingConfig

PROBES = 64  # puzzles
RECEIVERS = 2  # heads: a tenth of the policy's
AT_ONCE = 16  # responses in one pass
# How training reads the signals, and how the paper's analysis does.
CONVENTIONS = {
    "training": Convention(layers="middle", num_layers=5, horizon="band"),
    "analysis": Convention(),
}


@dataclass(frozen=True)
class Probes:
    """Responses and what the warm start read from them."""

    rows: Sequence[dict[str, Any]]  # prompt_ids, response_ids
    horizons: Horizons
    receivers: np.ndarray  # (L, H) bool, of the warm start
    first: dict[str, list[Arrays]] = field(repr=False)  # by convention


def make_probes(
    model: PreTrainedModel,
    generator: Generator,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    band: tuple[int, int | None],
) -> Probes:
    """Probes from one response to each prompt at T = 1. band: the horizon of FAI in training, in tokens."""
    made = generator.generate(prompts, SamplingConfig(max_new_tokens, temperature=1.0, seed=7))
    rows = [{"prompt_ids": list(p), "response_ids": c.token_ids} for p, c in zip(prompts, made, strict=True)]
    horizons: Horizons = {"fai_open": (0, None), "fai_band": band, "fai_receiver": (4, None)}
    arrays = _read(model, rows, horizons)
    receivers = find_receivers(arrays, RECEIVERS)
    return Probes(rows, horizons, receivers, {n: read_all(arrays, c, receivers) for n, c in CONVENTIONS.items()})


def probe_statistics(model: PreTrainedModel, probes: Probes) -> dict[str, float]:
    """What the policy reads now, against what the warm start read, by convention (training_..., analysis_...).

    waad_rank, fai_rank: Spearman's correlation with the warm start's signal, mean over responses. credit_stays: share
    of the warm start's coupled-rhythm credit that is on the same tokens now. NAME_lift: observed over chance - 1 of the
    three statistics of Table 2, over all probes; receiver heads are the warm start's.
    """
    arrays = _read(model, probes.rows, probes.horizons)
    found = {}
    for name, convention in CONVENTIONS.items():
        before, now = probes.first[name], read_all(arrays, convention, probes.receivers)
        for signal in ("waad", "fai"):
            ranks = [_rank(a[signal], b[signal]) for a, b in zip(before, now, strict=True)]
            found[f"{name}_{signal}_rank"] = float(np.nanmean(ranks))
        stays = [_shared_credit(a, b) for a, b in zip(before, now, strict=True)]
        found[f"{name}_credit_stays"] = sum(both for both, _ in stays) / max(sum(own for _, own in stays), 1e-9)
        found |= {f"{name}_{key}_lift": lift for key, lift in _lifts(now).items()}
    return found


def _read(model: PreTrainedModel, rows: Sequence[dict[str, Any]], horizons: Horizons) -> list[Arrays]:
    parts = (list(rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE))
    return [arrays for part in parts for arrays in read(model, part, horizons)]


def _rank(before: np.ndarray, now: np.ndarray) -> float:
    """Spearman's correlation where both are defined; NaN where one does not vary."""
    known = ~np.isnan(before) & ~np.isnan(now)
    if known.sum() < 3 or np.ptp(before[known]) == 0 or np.ptp(now[known]) == 0:
        return float("nan")
    return float(stats.spearmanr(before[known], now[known]).statistic)


def _shared_credit(before: Arrays, now: Arrays) -> tuple[float, float]:
    """Of e = gamma - 1 of coupled-rhythm credit: the sum of the smaller of the two, and of the first."""
    first, second = (_credit(signals) for signals in (before, now))
    return float(torch.minimum(first, second).sum()), float(first.sum())


def _credit(signals: Arrays) -> torch.Tensor:
    waad, fai = (torch.from_numpy(signals[name])[None] for name in ("waad", "fai"))
    return credit_weights(torch.ones_like(waad, dtype=torch.bool), CreditConfig(), waad=waad, fai=fai)[0] - 1  # (n,)


def _lifts(signals: list[Arrays]) -> dict[str, float]:
    """observed / chance - 1 of each statistic of Table 2 over all responses; NaN where there are no peaks."""
    per_response = [counts(own) for own in signals]
    found = {}
    for name in per_response[0]:
        top, peaks, chance, places = np.sum([own[name] for own in per_response], axis=0)
        defined = peaks > 0 and chance > 0
        found[name] = float(top / peaks / (chance / places) - 1) if defined else float("nan")
    return found
