"""The tables of a profile that Section 4 reads (see evaluation/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from attention_rhythm.errors import UsageError


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


@dataclass(frozen=True)
class CorrectnessSettings:
    """Table [correctness]: right answers, and another token at positions of high and of low FAI."""

    positions: int = 2  # per group and response, as in [perturbation]
    samples: int = 8  # continuations of a text: with its own token, and with the other in its place
    max_new_tokens: int = 256  # of a response, whether sampled or continued
    horizon: tuple[int, int] = (10, 100)  # FAI window in tokens ahead (H_lo, H_hi)
    batch_size: int = field(default=256, metadata={"decides": False})  # continuations at once: memory and speed


@dataclass(frozen=True)
class KnockoutSettings:
    """Table [knockout]: positions that later tokens may not attend to."""

    pairs: int = 2  # of a class in a response: a high-FAI position and its control
    behind: int = 20  # tokens that a position has behind it at least
    mass_ratio: float = 1.5  # by which the attention that both positions receive may differ
    distances: int = 100  # tokens behind a position whose predictions are compared
    batch_size: int = 8  # knock-outs in one pass: memory and speed


@dataclass(frozen=True)
class StudySettings:
    """What is common to tables [token_values] and [policy_values]: what each token of a response changes.

    Raises:
        UsageError: an odd number of samples, or fewer than four.
    """

    problems: int = 400  # that are tried
    responses: int = 150  # that are studied at most: one of each problem that is neither too easy nor too hard
    screen: int = 8  # responses to a problem from which its pass rate is taken; 1: no problem is left out
    pass_rate: tuple[float, float] = (0.1, 0.9)  # of a problem that is studied, if it is screened
    positions: int = 12  # of each response whose tokens are studied; 0: all
    samples: int = 16  # K: continuations of a prefix, half of them in each of two halves
    max_new_tokens: int = 256  # of a response, whether sampled or continued
    horizon: tuple[int, int] = (10, 100)  # FAI window in tokens ahead (H_lo, H_hi), as training reads it
    receiver_heads: int = 20  # heads of highest kurtosis that make the receiver signal
    batch_size: int = field(default=256, metadata={"decides": False})  # continuations at once: memory and speed

    def __post_init__(self) -> None:
        if self.samples < 4 or self.samples % 2:
            raise UsageError(f"samples must be even and at least 4, for two halves, not {self.samples}")


@dataclass(frozen=True)
class TokenValuesSettings(StudySettings):
    """Table [token_values]: token values of the profile's model."""

    task: str = "gsm8k"  # whose problems are answered
    source: str = "benchmark"  # benchmark: from DATA_DIR or the hub | generated: made here
