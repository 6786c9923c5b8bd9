"""Reading a model: WAAD and FAI of a response from one forward pass, for any causal LM with softmax attention."""

from attention_rhythm.signals.reading import SignalConfig, Signals, attention_signals

__all__ = ["SignalConfig", "Signals", "attention_signals"]
