"""WAAD, FAI and credit from attention: arXiv 2510.13554.

    from attention_rhythm import SignalConfig, attention_signals, CreditConfig, credit_weights, shape_advantages

Names are imported when they are first asked for, so that the command line, which needs none of them, starts without
PyTorch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_rhythm.credit import CreditConfig, credit_weights, shape_advantages
    from attention_rhythm.signals import SignalConfig, Signals, attention_signals

# Threads that wait by spinning keep the cores of a busy machine from the thread that they wait for: 2.5 times slower,
# and no faster on an idle machine (benchmarks/threads.py). OpenMP reads this when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"
__all__ = [
    "CreditConfig",
    "SignalConfig",
    "Signals",
    "attention_signals",
    "credit_weights",
    "shape_advantages",
]
_HOMES = {
    **dict.fromkeys(("SignalConfig", "Signals", "attention_signals"), "attention_rhythm.signals"),
    **dict.fromkeys(("CreditConfig", "credit_weights", "shape_advantages"), "attention_rhythm.credit"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
