"""What counts as a peak of a signal: the paper does not say, so each answer is a named rule."""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import find_peaks as scipy_find_peaks

RULES = ("prominence", "local_maximum", "quantile")


def find_peaks(
    values: np.ndarray, rule: str = "prominence", *, prominence: float = 0.5, quantile: float = 0.2
) -> np.ndarray:
    """Peaks of a signal (n,) as a bool array (n,); undefined values (NaN) are never peaks.

    Args:
        rule: "prominence": strict local maxima that stand out by `prominence` standard deviations of the defined
            values | "local_maximum": strict local maxima | "quantile": the ceil(quantile x n) highest defined values,
            ties to the earlier.

    ValueError: another rule.

    The first and the last defined value are no local maxima: a neighbour is missing. A plateau counts once, in its
    middle. A response too short to have a local maximum has no peaks.
    """
    values = np.asarray(values, dtype=float)
    defined = ~np.isnan(values)
    peaks = np.zeros(len(values), dtype=bool)
    if not defined.any():
        return peaks
    if rule == "quantile":
        count = math.ceil(quantile * defined.sum() - 1e-9)
        order = np.argsort(-np.where(defined, values, -np.inf), kind="stable")
        peaks[order[:count]] = True
        return peaks
    if rule not in RULES:
        raise ValueError(f"a peak rule is one of {RULES}, not {rule!r}")
    where = np.flatnonzero(defined)
    least = prominence * values[defined].std() if rule == "prominence" else None
    # A signal without spread has no peaks; its threshold of 0 would admit the ripple of rounding.
    if least == 0:
        return peaks
    found, _ = scipy_find_peaks(values[where], prominence=least)
    peaks[where[found]] = True
    return peaks
