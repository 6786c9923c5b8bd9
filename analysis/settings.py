"""The tables of a profile that Section 4 reads (see evaluation/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SignalsSettings:
    """Table [signals]: reading the sampled responses."""

    receiver_gap: int = 4  # tokens nearer than this do not count for a receiver head
    batch_size: int = 4  # responses at once: memory and speed
    example: int = 0  # index of the response that is drawn in Figs. 2 and 9


@dataclass(frozen=True)
class CouplingsSettings:
    """Table [couplings]: Table 2 and what it hangs on."""

    bootstrap: int = 2000  # resamples of the problems for the 95% intervals
    receiver_heads: int = 20  # heads of highest kurtosis that make the receiver signal
    prominence: float = 0.5  # of a peak, in standard deviations of its signal


@dataclass(frozen=True)
class PerturbationSettings:
    """Table [perturbation]: other tokens forced at positions of high and of low FAI."""

    problems: int = 70  # responses that are perturbed
    positions: int = 2  # per group and response; the paper has 5
    candidates: int = 2  # most likely other tokens that are forced at a position; the paper has 5
    horizon: tuple[int, int] = (10, 100)  # FAI window in tokens ahead (H_lo, H_hi)
    batch_size: int = 8  # responses perturbed at once: memory and speed
    groups: tuple[str, ...] = ("top", "bottom", "matched")  # by FAI; matched: low FAI, same part of the response as top
