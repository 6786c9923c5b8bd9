"""What a training step logs: means over its responses and tokens, the rhythm of Table 2, its gradient steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from training.actors.attn import Reading
from training.actors.infer import Rollout

PEAK_PROMINENCE = 0.5  # of a peak in the Table 2 statistics, in standard deviations of its signal


def batch_statistics(
    rollout: Rollout,
    reading: Reading,
    rewards: Float[Tensor, "B"],
    raw: Float[Tensor, "B"],
    gamma: Float[Tensor, "B N"],
    shaped: Float[Tensor, "B N"],
) -> dict[str, float]:
    """Means over responses (reward, length, ...) and over response tokens (entropy in nats, gamma, advantages, ...)."""
    response = rollout.response
    raw_tokens = raw[:, None].expand_as(shaped)[response]  # (M,)
    of_responses = {
        "reward_mean": rewards.mean(),
        "reward_std": rewards.std(),
        "response_length": response.sum(1).float().mean(),
        "finished": rollout.finished.float().mean(),
        "useful_groups": (raw != 0).float().mean(),  # share of responses whose group has spread
    }
    of_tokens = {
        "advantage_mean": raw_tokens.mean(),
        "advantage_std": raw_tokens.std(),
        "advantage_size": raw_tokens.abs().mean(),
        "shaped_mean": shaped[response].mean(),
        "shaped_std": shaped[response].std(),
        "shaped_size": shaped[response].abs().mean(),
        "gamma_coverage": (gamma != 1)[response].float().mean(),
        "gamma_mean": gamma[response].mean(),
        "entropy": reading.entropy[response].mean(),
    }
    values = {name: value.item() for name, value in (of_responses | of_tokens).items()}
    return values | {"sampler_gap": sampler_gap(rollout, reading)}


def sampler_gap(rollout: Rollout, reading: Reading) -> float:
    """Mean |log-probability of the engine - of the trained model|, nats: about 0 while both have the same weights."""
    return (reading.old_logp - rollout.sampled_logp)[rollout.response].abs().mean().item()


def rhythm_statistics(reading: Reading, response: Bool[Tensor, "B N"]) -> dict[str, float]:
    """Table 2 on this batch: observed, chance, and lift = observed / chance - 1 of

    `waad_peak_entropy` (nats) and `fai_follows_or_coincides_waad` (a share). NaN where there is no peak.
    """
    from analysis.couplings import counts  # pandas and scipy, which a run without these statistics does not need
    from attention_rhythm.signals.peaks import find_peaks

    assert reading.signals is not None
    arrays = {"waad": reading.signals.waad, "fai": reading.signals.fai, "entropy": reading.entropy}
    arrays = {name: value.cpu().numpy() for name, value in arrays.items()}
    totals: dict[str, np.ndarray] = {}
    for row, own in enumerate(response.cpu().numpy()):
        signals = {name: value[row, own] for name, value in arrays.items()}
        for name in ("waad", "fai"):
            signals[f"{name}_peak"] = find_peaks(signals[name], prominence=PEAK_PROMINENCE)
        signals["receiver_fai_peak"] = np.zeros(int(own.sum()), dtype=bool)  # receiver heads are not tracked
        for name, sums in counts(signals).items():
            totals[name] = totals.get(name, 0.0) + np.array(sums, dtype=float)
    result = {}
    for name in ("waad_peak_entropy", "fai_follows_or_coincides_waad"):
        with np.errstate(invalid="ignore", divide="ignore"):
            observed, chance = totals[name][0] / totals[name][1], totals[name][2] / totals[name][3]
            lift = observed / chance - 1
        values = {"observed": observed, "chance": chance, "lift": lift}
        result |= {f"{name}_{kind}": float(v) if np.isfinite(v) else float("nan") for kind, v in values.items()}
    return result


def mean_of_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    """Over the gradient steps of a batch: means, but the extremes of the ratio and the last learning rate."""

    def defined(name: str) -> list[float]:
        return [update[name] for update in updates if not np.isnan(update[name])] or [float("nan")]

    return {
        **{
            name: float(np.mean(defined(name)))
            for name in ("loss", "grad_norm", "clip_share", "approx_kl", "ratio_mean")
        },
        "grad_norm_max": max(defined("grad_norm")),
        "ratio_min": min(defined("ratio_min")),
        "ratio_max": max(defined("ratio_max")),
        "lr": updates[-1]["lr"],
    }
