"""Stage `couplings`: how WAAD peaks, FAI peaks, receiver heads and entropy coincide (Sec. 4.2; Tables 2, 10, 20).

Every statistic compares an observed value with the value that chance gives:

- `waad_peak_entropy`: mean entropy (nats) at WAAD peaks, against the mean over all response tokens;
- `receiver_global_fai_cooccurrence`: share (percent) of FAI peaks of the receiver heads that are FAI peaks of the
  global heads, against the share of positions that are;
- `fai_follows_or_coincides_waad`: share (percent) of FAI peaks at a WAAD peak or right after one, against the share of
  positions that are: the expectation over all placements of the same number of FAI peaks, in closed form.

Sums run over all tokens of all problems; intervals resample problems. The paper does not say what a peak is, which row
belongs to a token, and so on: each answer is a field of `Convention`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.read_signals import HORIZONS, WINDOW, load, signals_of
from analysis.settings import CouplingsSettings, SignalsSettings
from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_json, write_table
from attention_rhythm.signals.heads import head_sets, kurtosis, receiver_heads, select_layers
from attention_rhythm.signals.peaks import find_peaks
from attention_rhythm.signals.reading import SignalConfig, mean_over
from attention_rhythm.statistics import bootstrap_statistic, sign_flip_test
from evaluation.settings import Run

STATISTICS = ("waad_peak_entropy", "receiver_global_fai_cooccurrence", "fai_follows_or_coincides_waad")
PAIRS = {  # Table 20: the peaks of the first at, before or after a peak of the second
    "receiver_fai_vs_global_fai": ("receiver_fai", "fai"),
    "receiver_fai_vs_waad": ("receiver_fai", "waad"),
    "global_fai_vs_waad": ("fai", "waad"),
    "waad_vs_entropy": ("waad", "entropy"),
}
OVERLAP_RESPONSES = 8  # as in Table 20

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Convention:
    """One answer to each question that the paper leaves open; the defaults are those of the tables."""

    peak: str = "prominence"  # prominence | local_maximum | quantile: see attention_rhythm.signals.peaks
    prominence: float = 0.5  # of a peak, in standard deviations of its signal
    quantile: float = 0.2  # share of tokens that are peaks, under the rule "quantile"
    row: str = "token"  # token: WAAD_t of row t | predictor: of row t-1, which predicted token t (as entropy is)
    layers: str = "all"  # all | top | middle | bottom
    num_layers: int | None = None  # evenly spaced; None: every layer of the range
    head_scope: str = "response"  # response: head sets (Eq. 8) of each response's own | frozen: of all responses' mean
    horizon: str = "open"  # open: from the token itself to the end (A.1) | band: Eq. 10 with (10, 100)
    head_fraction: float | None = SignalConfig.head_fraction  # local and global share of heads; None: all heads in both


def stage(run: Run, settings: CouplingsSettings, signals_settings: SignalsSettings) -> None:
    """Write couplings.json (Tables 2 and 10), sensitivity.csv, peak_overlap.csv (Table 20) and tokens.parquet."""
    responses = load(run.path("signals"))
    if not responses:
        raise ReproError("signals/ holds no response")
    base = Convention(prominence=settings.prominence)
    receivers = find_receivers(responses, settings.receiver_heads)
    bootstrap = {"resamples": settings.bootstrap, "seed": run.seed}

    rows = []
    for layers in ("all", "top", "middle", "bottom"):
        signals = read_all(responses, replace(base, layers=layers), receivers)
        rows += [{"name": name, "layers": layers, **summary} for name, summary in couple(signals, bootstrap).items()]
    signals = read_all(responses, base, receivers)
    spans = np.stack([r["span"] for r in responses]).mean(0)
    _, glob = head_sets(torch.from_numpy(spans), base.head_fraction)
    write_json(
        run.path("couplings.json"),
        {
            "settings": {
                **asdict(base),
                "window": WINDOW,
                "receiver_heads": settings.receiver_heads,
                "receiver_gap": signals_settings.receiver_gap,
                # receivers that are global heads themselves make a part of their agreement trivial
                "receivers_that_are_global": int((receivers & glob.numpy()).sum()),
                "heads": int(receivers.size),
                "bootstrap": settings.bootstrap,
            },
            "n_problems": len(responses),
            "n_tokens": sum(len(r["token_ids"]) for r in responses),
            "statistics": rows,
        },
    )
    write_table(run.path("sensitivity.csv"), sensitivity(responses, base, receivers, bootstrap))
    write_table(run.path("peak_overlap.csv"), peak_overlap(responses[:OVERLAP_RESPONSES], signals))
    write_table(run.path("tokens.parquet"), token_table(responses, signals))


def find_receivers(responses: list[Arrays], count: int) -> np.ndarray:
    """Receiver heads of the model, (L, H) bool: by kurtosis of received attention, averaged over the responses."""
    per_response = [kurtosis(torch.from_numpy(r["fai_receiver"])) for r in responses]
    return receiver_heads(torch.stack(per_response), count).numpy()


def read_all(responses: list[Arrays], convention: Convention, receivers: np.ndarray) -> list[Arrays]:
    """For each response its signals (n,) and their peaks (n,) bool, under one convention."""
    span = None
    if convention.head_scope == "frozen":
        layers = list(select_layers(len(responses[0]["span"]), convention.layers, convention.num_layers))
        span = torch.from_numpy(np.stack([r["span"][layers] for r in responses])).mean(0)  # (l, H)
    elif convention.head_scope != "response":
        raise ValueError(f"head_scope must be 'response' or 'frozen', not {convention.head_scope!r}")
    horizon = f"fai_{convention.horizon}"
    read = ("layers", "num_layers", "head_fraction", "row")
    config = SignalConfig(WINDOW, HORIZONS[horizon], **{name: getattr(convention, name) for name in read})
    result = []
    for response in responses:
        waad, fai = signals_of(response, config, span)
        receiver_fai = mean_over(torch.from_numpy(response[horizon]), torch.from_numpy(receivers))
        signals = {
            "waad": waad.numpy(),
            "fai": fai.numpy(),
            "receiver_fai": receiver_fai.numpy(),
            "entropy": response["entropy"],
        }
        for name in tuple(signals):
            signals[f"{name}_peak"] = find_peaks(
                signals[name], convention.peak, prominence=convention.prominence, quantile=convention.quantile
            )
        result.append(signals)
    return result


def counts(signals: Arrays) -> dict[str, tuple[float, float, float, float]]:
    """For each statistic of one response: (observed sum, over how many; chance sum, over how many)."""
    waad, fai, receiver = signals["waad_peak"], signals["fai_peak"], signals["receiver_fai_peak"]
    entropy = signals["entropy"]
    known = ~np.isnan(entropy)
    usable = ~np.isnan(signals["fai"])  # where an FAI peak could have been
    near = waad.copy()  # at a WAAD peak, or right after one
    near[1:] |= waad[:-1]
    return {
        "waad_peak_entropy": (entropy[waad & known].sum(), (waad & known).sum(), entropy[known].sum(), known.sum()),
        "receiver_global_fai_cooccurrence": ((receiver & fai).sum(), receiver.sum(), fai.sum(), usable.sum()),
        "fai_follows_or_coincides_waad": ((fai & near).sum(), fai.sum(), (near & usable).sum(), usable.sum()),
    }


def couple(all_signals: list[Arrays], bootstrap: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The three statistics over all responses, with 95% bootstrap intervals over problems.

    `p_value`: two-sided sign-flip test over problems of observed - random. NaN (null in JSON) where there are no peaks.
    """
    per_problem = [counts(signals) for signals in all_signals]
    result = {}
    for name in STATISTICS:
        table = np.array([c[name] for c in per_problem], dtype=float)  # (P, 4)
        unit = 1.0 if name == "waad_peak_entropy" else 100.0
        values = {
            "observed": lambda i, t=table, u=unit: u * _ratio(t[i][..., 0], t[i][..., 1]),
            "random": lambda i, t=table, u=unit: u * _ratio(t[i][..., 2], t[i][..., 3]),
            "lift": lambda i, t=table: 100 * (_ratio(t[i][..., 0], t[i][..., 1]) / _chance(t[i]) - 1),
        }
        summary: dict[str, Any] = {"n_problems": len(table), "peaks": int(table[:, 1].sum())}
        for key, statistic in values.items():
            if np.isnan(statistic(np.arange(len(table))[None])[0]):
                summary |= {key: float("nan"), f"{key}_ci": [float("nan")] * 2}
                continue
            interval = bootstrap_statistic(len(table), statistic, **bootstrap)
            summary |= {key: interval.estimate, f"{key}_ci": [interval.low, interval.high]}
        difference = _ratio(table[:, 0], table[:, 1]) - _ratio(table[:, 2], table[:, 3])
        defined = difference[~np.isnan(difference)]
        summary["p_value"] = sign_flip_test(defined, seed=bootstrap["seed"]) if len(defined) else float("nan")
        result[name] = summary
    return result


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Sums over the last axis (if there is one more than a problem's) divided, NaN where nothing was counted."""
    if top.ndim > 1:
        top, bottom = top.sum(-1), bottom.sum(-1)
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _chance(table: np.ndarray) -> np.ndarray:
    chance = _ratio(table[..., 2], table[..., 3])
    return np.where(chance > 0, chance, np.nan)


def conventions(base: Convention) -> Iterator[Convention]:
    """The conventions of the sensitivity table: peak rule x row x layers, then one change of each other choice."""
    for peak in ("prominence", "local_maximum", "quantile"):
        for row in ("token", "predictor"):
            for layers, number in (("all", None), ("middle", 5), ("top", 5), ("bottom", 5)):
                yield replace(base, peak=peak, row=row, layers=layers, num_layers=number)
    yield replace(base, prominence=base.prominence / 2)
    yield replace(base, prominence=base.prominence * 2)
    yield replace(base, horizon="band")
    yield replace(base, head_scope="frozen")
    for fraction in (0.2, 0.4, 0.5, None):
        yield replace(base, head_fraction=fraction)


def sensitivity(
    responses: list[Arrays], base: Convention, receivers: np.ndarray, bootstrap: dict[str, int]
) -> pd.DataFrame:
    """One row a convention and statistic: random, observed, lift with its interval."""
    rows = []
    for convention in conventions(base):
        described = asdict(convention)
        described["layers"] += f" ({convention.num_layers})" if convention.num_layers else ""
        described["head_fraction"] = "all" if convention.head_fraction is None else convention.head_fraction
        if convention.peak == "prominence":
            described["peak"] = f"prominence {convention.prominence:g}"
        elif convention.peak == "quantile":
            described["peak"] = f"quantile {convention.quantile:g}"
        for name, summary in couple(read_all(responses, convention, receivers), bootstrap).items():
            low, high = summary["lift_ci"]
            rows.append(
                {
                    "statistic": name,
                    **{k: described[k] for k in ("peak", "row", "layers", "head_scope", "horizon", "head_fraction")},
                    "random": summary["random"],
                    "observed": summary["observed"],
                    "lift": summary["lift"],
                    "lift_low": low,
                    "lift_high": high,
                    "n_problems": summary["n_problems"],
                }
            )
    return pd.DataFrame(rows)


def peak_overlap(responses: list[Arrays], all_signals: list[Arrays]) -> pd.DataFrame:
    """Table 20: percent of the first signal's peaks that meet a peak of the second at, one before or one after them."""
    rows = []
    for response, signals in zip(responses, all_signals, strict=False):
        for pair, (first, second) in PAIRS.items():
            at = signals[f"{first}_peak"]
            other = np.pad(signals[f"{second}_peak"], 1)  # no peak beyond the ends
            shifted = {"exact": other[1:-1], "previous": other[:-2], "next": other[2:]}
            share = {k: 100 * (at & s).sum() / at.sum() if at.any() else float("nan") for k, s in shifted.items()}
            rows.append({"response": str(response["response"]), "pair": pair, **share, "peaks": int(at.sum())})
    return pd.DataFrame(rows)


def token_table(responses: list[Arrays], all_signals: list[Arrays]) -> pd.DataFrame:
    """One row a response token: its text, entropy (nats), WAAD (tokens), FAI, and what is a peak."""
    frames = []
    for response, signals in zip(responses, all_signals, strict=True):
        n = len(response["token_ids"])
        frames.append(
            pd.DataFrame(
                {
                    "response": str(response["response"]),
                    "t": np.arange(n),
                    "token": response["texts"].astype(str),
                    "token_id": response["token_ids"],
                    "entropy": response["entropy"],
                    "logprob": response["logprob"],
                    **{name: signals[name] for name in ("waad", "fai", "receiver_fai")},
                    "waad_peak": signals["waad_peak"],
                    "fai_peak": signals["fai_peak"],
                    "receiver_peak": signals["receiver_fai_peak"],
                    "entropy_peak": signals["entropy_peak"],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
