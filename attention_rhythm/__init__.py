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

# Threads that wait by spinning keep the cores of a busy machine from the thread that they wait for: 2.5 times slower,
# and no faster on an idle machine (benchmarks/threads.py). OpenMP reads this when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"
__all__ = ["CreditConfig", "SignalConfig", "Signals", "attention_signals", "credit_weights", "shape_advantages"]
__getattr__ = exports(
    __name__,
    {
        "attention_rhythm.credit": ["CreditConfig", "credit_weights", "shape_advantages"],
        "attention_rhythm.signals.reading": ["SignalConfig", "Signals", "attention_signals"],
    },
)
