"""WAAD, FAI and credit from attention: arXiv 2510.13554.

from attention_rhythm import SignalConfig, attention_signals, CreditConfig, credit_weights, shape_advantages
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attention_rhythm.lazy import exports

if TYPE_CHECKING:
    from attention_rhythm.credit import CreditConfig, credit_weights, shape_advantages
    from attention_rhythm.signals.reading import SignalConfig, Signals, attention_signals

# How long PyTorch's threads spin before they sleep. By default, so long that they keep a busy machine's cores from the
# thread that they wait for; at once is too early, since waking one takes longer than most of its work
# (benchmarks/threads.py). OpenMP reads this when PyTorch is first imported; a policy that is set is left alone.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.2.0"
__all__ = ["CreditConfig", "SignalConfig", "Signals", "attention_signals", "credit_weights", "shape_advantages"]
__getattr__ = exports(
    __name__,
    {
        "attention_rhythm.credit": ["CreditConfig", "credit_weights", "shape_advantages"],
        "attention_rhythm.signals.reading": ["SignalConfig", "Signals", "attention_signals"],
    },
)
