"""Group-relative policy optimisation: advantages within a group of responses (Eq. 6), and the clipped loss (Eq. 12)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attention_rhythm.errors import NotFinite

EPSILON = 1e-6  # added to a group's standard deviation
AGGREGATIONS = ("token_mean", "sequence_mean")


@torch.no_grad()
def group_advantages(rewards: Float[Tensor, "B"], group_ids: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Eq. 6: A_i = (r_i - mean r) / std r over the responses to one prompt, in standard deviations; float32.

    The paper does not say which standard deviation. This is the one of verl's `compute_grpo_outcome_advantage`: over
    G - 1 (`torch.std`), plus 1e-6. A group without spread gives 0 exactly, a group of one included (verl keeps the bare
    reward of a lone response).

    Args:
        rewards: one for each response.
        group_ids: equal for the responses to one prompt; any integers, in any order.

    Raises:
        ValueError: shapes that differ. NotFinite: a reward that is NaN or infinite.
    """
    if rewards.ndim != 1 or rewards.shape != group_ids.shape:
        raise ValueError(f"rewards {tuple(rewards.shape)} and group_ids {tuple(group_ids.shape)} must both be (B,)")
    if not bool(torch.isfinite(rewards).all()):
        raise NotFinite("a reward is NaN or infinite")
    reward = rewards.double()
    _, group, count = group_ids.unique(return_inverse=True, return_counts=True)  # (B,), (groups,)
    zeros = torch.zeros(len(count), dtype=torch.float64, device=reward.device)
    mean = zeros.index_add(0, group, reward) / count
    centred = reward - mean[group]
    std = (zeros.index_add(0, group, centred.square()) / (count - 1).clamp(min=1)).sqrt()
    # a mean of equal rewards may be off by a rounding, which 1e-6 in the denominator would blow up
    low, high = (zeros.scatter_reduce(0, group, reward, end, include_self=False) for end in ("amin", "amax"))
    advantage = torch.where((low == high)[group], 0.0, centred / (std + EPSILON)[group])
    return advantage.float()


def policy_loss(
    logp: Float[Tensor, "B N"],
    old_logp: Float[Tensor, "B N"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B N"],
    mask: Bool[Tensor, "B N"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: str = "token_mean",
    denominator: Tensor | float | int | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Eq. 12: the clipped objective, to be minimised; no KL term, no entropy bonus, no dual clip.

    Args:
        logp, old_logp: log-probabilities in nats, of the policy and of the one that sampled; ignored outside `mask`.
        advantages: shaped or not; no gradient flows through them.
        mask: the response tokens.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        aggregation: "token_mean": mean over all tokens of the batch (verl: token-mean) | "sequence_mean": mean over
            sequences of each one's mean over tokens, Eq. 12 as printed (verl: seq-mean-token-mean). Sequences without
            tokens do not count.
        denominator: tokens, or sequences, of the whole batch of which this is a part: the losses (and gradients) of the
            parts then add up to those of the whole. None: of this batch.

    Returns:
        The loss, and metrics (detached, 0-d): tokens; clip_share, the share of tokens where the clip binds; approx_kl,
        the mean of ratio - 1 - log ratio, in nats; ratio_mean, ratio_min, ratio_max. NaN where there are no tokens.

    Raises:
        ValueError: an unknown aggregation.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}")
    mask = mask.bool()
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = torch.where(mask, advantages.detach(), 0.0)  # (B, N)
    log_ratio = torch.where(mask, logp - old_logp.detach(), 0.0)  # (B, N); before exp: padding may hold NaN
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token = torch.maximum(plain, clipped)  # (B, N); 0 outside the mask

    tokens = mask.sum(1)  # (B,)
    if aggregation == "token_mean":
        total = per_token.sum()
        whole = tokens.sum() if denominator is None else denominator
    else:
        total = (per_token.sum(1) / tokens.clamp(min=1)).sum()
        whole = (tokens > 0).sum() if denominator is None else denominator
    loss = total / whole

    with torch.no_grad():
        seen = ratio[mask]  # (M,)
        nothing = seen.new_tensor(float("nan"))
        metrics = {
            "tokens": tokens.sum(),
            "clip_share": (clipped > plain)[mask].float().mean(),
            "approx_kl": (seen - 1 - log_ratio[mask]).mean(),
            "ratio_mean": seen.mean(),
            "ratio_min": seen.min() if len(seen) else nothing,
            "ratio_max": seen.max() if len(seen) else nothing,
        }
    return loss, metrics
