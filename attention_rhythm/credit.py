"""From attention signals to credit: gamma of each token (Eqs. 13-19), and the advantages shaped by it (Eq. 12).

Strategies (all but `uniform` credit the tokens of highest score, TopQ, with `amplification`):

    uniform         1 everywhere: plain GRPO
    random          TopQ of uniform noise: the baseline of equal budget
    entropy         TopQ of token entropy: the other baseline
    local_chunk     TopQ of Delta_t = |WAAD_t - WAAD_{t+1}| (Eqs. 14, 15)
    global_anchor   TopQ of FAI (Eqs. 16, 17)
    coupled_rhythm  global_anchor; an anchor that its neighbourhood dominates gives a share of its credit back to the
                    token that introduced it (Eqs. 18, 19)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from attention_rhythm.errors import NotFinite, ReproError


class NoCreditError(ReproError):
    """A credit strategy that has credited no token: the run would be plain GRPO under another name."""


# The signals that each strategy reads.
SIGNALS = {
    "uniform": (),
    "random": (),
    "entropy": ("entropy",),
    "local_chunk": ("waad",),
    "global_anchor": ("fai",),
    "coupled_rhythm": ("waad", "fai"),
}
OPTIONS = {
    "strategy": tuple(SIGNALS),
    "select": ("top", "bottom"),
    "sign": ("both", "positive", "negative"),
    "topq": ("exact", "threshold"),
    "intro": ("argmax", "nearest"),
    "undefined_fai": ("never", "zero"),
}


@dataclass(frozen=True)
class CreditConfig:
    """How credit is given; the defaults are those of the paper's second version, and ours where it is silent.

    Raises:
        ValueError: a field that is none of its options or outside its range; the message names the field.
    """

    strategy: str = "coupled_rhythm"  # uniform | random | entropy | local_chunk | global_anchor | coupled_rhythm
    quantile: float = 0.4  # q of TopQ: share of the defined tokens that is credited
    amplification: float = 1.5  # gamma_amp: gamma of a credited token
    alpha: float = 0.5  # share of a dominated anchor's credit that goes to its introductory token (Eq. 19)
    neighborhood: int = 3  # k of Eq. 18: how many tokens before an anchor may dominate or introduce it
    select: str = "top"  # top | bottom: credit the tokens of highest or of lowest score
    sign: str = "both"  # both | positive | negative: which advantages are scaled
    topq: str = "exact"  # exact: ceil(q n) tokens, ties to the earlier | threshold: all at the quantile or beyond it
    tau_waad: float = 0.5  # quantile of WAAD, within the response, at or below which a token is low; 0.5: the median
    tau_delta: float = 0.5  # quantile of Delta, within the response, at or above which a neighbour dominates
    # argmax: largest Delta of the window, ties to the earlier | nearest: last at tau_delta or above
    intro: str = "argmax"
    # FAI of tokens without a future; never: they are not selected | zero: they compete with a value of 0
    undefined_fai: str = "never"

    def __post_init__(self) -> None:
        for name, options in OPTIONS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {', '.join(options)}, not {getattr(self, name)!r}")
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], not {self.quantile}")
        if not self.amplification > 0:
            raise ValueError(f"amplification must be positive, not {self.amplification}")
        if self.neighborhood < 1:
            raise ValueError(f"neighborhood must be at least 1, not {self.neighborhood}")
        for name in ("alpha", "tau_waad", "tau_delta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")


# v1 also reads FAI over a shorter horizon: SignalConfig(horizon=(10, 50)).
PRESETS = {"v1": CreditConfig(sign="positive"), "v2": CreditConfig()}


@torch.no_grad()
def credit_weights(
    response_mask: Bool[Tensor, "B N"],
    config: CreditConfig,
    *,
    waad: Float[Tensor, "B N"] | None = None,
    fai: Float[Tensor, "B N"] | None = None,
    entropy: Float[Tensor, "B N"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B N"]:
    """gamma of each token: float32, detached, 1.0 outside the response.

    Args:
        response_mask: True on the response, which is contiguous, anywhere in its row.
        waad, fai, entropy: the signals that the strategy reads (tokens, mean attention weight, nats); values outside
            the response are ignored, NaN within it is undefined.
        generator: draws the tokens of the strategy "random".

    Raises:
        ValueError: a signal (or the generator) that the strategy reads is missing, has another shape, is infinite, or
            is undefined where it cannot be (WAAD or entropy after the first response token); a response with a hole.
    """
    response = response_mask.bool()
    holes = (response[:, 1:] & ~response[:, :-1]).sum(1) + response[:, 0] > 1
    if bool(holes.any()):
        raise ValueError(f"the response of sequence {int(holes.nonzero()[0])} is not contiguous")
    given = {"waad": waad, "fai": fai, "entropy": entropy}
    signals = {name: _within(response, name, given[name], config.strategy) for name in SIGNALS[config.strategy]}

    gamma = torch.ones(response.shape, dtype=torch.float32, device=response.device)
    extra = config.amplification - 1
    if config.strategy == "uniform":
        return gamma
    if config.strategy == "coupled_rhythm":
        return coupled_rhythm(response, signals["waad"], signals["fai"], config)
    if config.strategy == "random":
        if generator is None:
            raise ValueError("strategy 'random' needs a generator")
        score = torch.rand(response.shape, generator=generator, device=generator.device).to(response.device)
    elif config.strategy == "entropy":
        score = signals["entropy"]
    elif config.strategy == "local_chunk":
        score = waad_change(signals["waad"])
    else:
        score = anchor_score(response, signals["fai"], config)
    return gamma + extra * top_q(response, score, config)


def shape_advantages(
    advantages: Float[Tensor, "B"] | Float[Tensor, "B N"], gamma: Float[Tensor, "B N"], sign: str = "both"
) -> Float[Tensor, "B N"]:
    """Eq. 13: gamma_t A_t where A_t has the wanted sign, A_t elsewhere; no gradient flows through gamma.

    In the unit of the advantages: standard deviations of the rewards of a group.

    Raises:
        ValueError: sign is none of both, positive, negative.
    """
    if advantages.ndim == 1:
        advantages = advantages[:, None]  # (B, 1)
    shaped = gamma.detach() * advantages  # (B, N)
    if sign == "both":
        return shaped
    if sign == "positive":
        return torch.where(advantages > 0, shaped, advantages)
    if sign == "negative":
        return torch.where(advantages < 0, shaped, advantages)
    raise ValueError(f"sign must be one of both, positive, negative, not {sign!r}")


def check_credited(before: bool, gamma: Float[Tensor, "B N"], config: CreditConfig, first_row: int) -> bool:
    """Whether gamma of a run has ever differed from 1; `before`: whether it had until now.

    Args:
        gamma: of the batch at hand, (B, N).
        first_row: H_lo of Eq. 10, in tokens, for the message.

    Raises:
        NoCreditError: never, under a strategy that is to credit tokens.
    """
    credited = before or bool((gamma != 1).any())
    if not credited and config.strategy != "uniform":
        raise NoCreditError(
            f"strategy {config.strategy!r} has credited no token: responses of up to {first_row} tokens have no FAI, "
            "an amplification of 1 changes nothing"
        )
    return credited


def waad_change(waad: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Eq. 14: Delta_t = |WAAD_t - WAAD_{t+1}|, in tokens; NaN at the last response token and outside the response."""
    return F.pad((waad[:, :-1] - waad[:, 1:]).abs(), (0, 1), value=float("nan"))


def anchor_score(
    response: Bool[Tensor, "B N"], fai: Float[Tensor, "B N"], config: CreditConfig
) -> Float[Tensor, "B N"]:
    """FAI, a mean attention weight, as TopQ of Eq. 16 sees it: what is undefined stays so, or is worth 0."""
    return fai.masked_fill(response & fai.isnan(), 0.0) if config.undefined_fai == "zero" else fai


def top_q(response: Bool[Tensor, "B N"], score: Float[Tensor, "B N"], config: CreditConfig) -> Bool[Tensor, "B N"]:
    """TopQ of Eqs. 14 and 16: the share q of highest (select="bottom": lowest) score among the n defined tokens.

    "exact" takes ceil(q n - 1e-9) tokens, ties to the earlier; "threshold" takes every token at or beyond the quantile
    (linear between the two nearest values), which is more than the share where scores tie.
    """
    defined = response & ~score.isnan()
    ascending = torch.where(defined, score if config.select == "bottom" else -score, float("inf"))
    if config.topq == "threshold":
        return defined & (ascending <= _quantile(ascending, defined, config.quantile)[:, None])
    order = ascending.argsort(dim=1, stable=True)
    position = torch.arange(response.shape[1], device=response.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, position)  # (B, N): 0 for the first to be taken
    budget = torch.ceil(config.quantile * defined.sum(1, dtype=torch.float64) - 1e-9)  # (B,) tokens
    return defined & (rank < budget[:, None])


def coupled_rhythm(
    response: Bool[Tensor, "B N"], waad: Float[Tensor, "B N"], fai: Float[Tensor, "B N"], config: CreditConfig
) -> Float[Tensor, "B N"]:
    """Eq. 19: gamma = 1 + (g-1) [T_glob \\ D] + (1-alpha) (g-1) [D] + alpha (g-1) [I(D)].

    The sum is literal: a token in two of the sets gets both terms. I(D) is a set: a token that introduces two anchors
    gets its term once.
    """
    anchors = top_q(response, anchor_score(response, fai, config), config)  # (B, N): T_glob
    dominated, intro = dominated_anchors(anchors, response, waad, config)  # (B, N), (B, N)
    extra = config.amplification - 1
    return (
        1
        + extra * (anchors & ~dominated).float()
        + (1 - config.alpha) * extra * dominated.float()
        + config.alpha * extra * intro.float()
    )


def dominated_anchors(
    anchors: Bool[Tensor, "B N"], response: Bool[Tensor, "B N"], waad: Float[Tensor, "B N"], config: CreditConfig
) -> tuple[Bool[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Eq. 18: D, the anchors with WAAD_t <= tau_waad and max of Delta over t-k..t-1 >= tau_delta; and I(D).

    The window stays inside the response: its first token has no window and is never dominated.
    """
    delta = waad_change(waad)
    known = ~delta.isnan()
    tau_waad = _quantile(waad, response & ~waad.isnan(), config.tau_waad)  # (B,) tokens
    tau_delta = _quantile(delta, known, config.tau_delta)  # (B,) tokens

    k, length = config.neighborhood, response.shape[1]
    before = F.pad(delta.masked_fill(~known, float("-inf")), (k, 0), value=float("-inf"))  # (B, N + k)
    window = before.unfold(1, k, 1)[:, :length]  # (B, N, k): Delta of t-k .. t-1
    enough = window >= tau_delta[:, None, None]  # false where a threshold is undefined (NaN)
    dominated = anchors & (waad <= tau_waad[:, None]) & enough.any(2)

    largest = window.argmax(2)  # (B, N): the first of several maxima
    nearest = k - 1 - enough.flip(2).long().argmax(2)  # (B, N): the last that is large enough
    place = {"argmax": largest, "nearest": nearest}[config.intro]
    position = torch.arange(length, device=response.device) - k + place  # (B, N)
    # positions are counted up, not set: a token that introduces nothing must not clear one that introduces something
    introduces = torch.zeros_like(position).scatter_add_(1, position.clamp(min=0), dominated.long())
    return dominated, introduces > 0


# --------------------------------------------------------------------------------------------- private


def _within(response: Bool[Tensor, "B N"], name: str, values: Tensor | None, strategy: str) -> Float[Tensor, "B N"]:
    """A signal in float32, NaN outside the response; ValueError if it is not what the strategy needs.

    NotFinite: it is infinite, or undefined where it must not be.
    """
    if values is None:
        raise ValueError(f"strategy {strategy!r} needs {name}")
    if values.shape != response.shape:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, the response mask {tuple(response.shape)}")
    values = torch.where(response, values.detach().float(), float("nan"))
    later = F.pad(response[:, :-1] & response[:, 1:], (1, 0))  # response tokens but the first
    wrong = values.isinf() if name == "fai" else values.isinf() | (later & values.isnan())
    if bool(wrong.any()):
        raise NotFinite(f"{name} is infinite or undefined within the response of sequence {int(wrong.nonzero()[0, 0])}")
    return values


def _quantile(values: Float[Tensor, "B N"], defined: Bool[Tensor, "B N"], level: float) -> Float[Tensor, "B"]:
    """Quantile of each row's defined values, linear between the two nearest; at 0.5 the median. NaN where none is.

    (torch.nanquantile refuses large inputs.)
    """
    ordered = torch.where(defined, values, float("inf")).sort(dim=1).values
    place = level * (defined.sum(1, dtype=torch.float64) - 1).clamp(min=0)  # (B,)
    low: Int[Tensor, "B 1"] = place.floor().long()[:, None]
    high = place.ceil().long()[:, None]
    low_value, high_value = ordered.gather(1, low)[:, 0], ordered.gather(1, high)[:, 0]
    between = torch.where(
        low_value == high_value, low_value, low_value.lerp(high_value, (place - place.floor()).float())
    )
    return torch.where(defined.any(1), between, float("nan"))
