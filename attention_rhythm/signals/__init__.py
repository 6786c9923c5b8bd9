"""Reading a model: WAAD and FAI of a response from one forward pass, for any causal LM with softmax attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_rhythm.lazy import exports

if TYPE_CHECKING:
    from attention_rhythm.signals.reading import SignalConfig, Signals, attention_signals

__all__ = ["SignalConfig", "Signals", "attention_signals"]
__getattr__ = exports(
    __name__,
    {
        "attention_rhythm.signals.reading": ["SignalConfig", "Signals", "attention_signals"],
    },
)
