"""Generators: one protocol, one file an engine. An engine that is not installed costs nothing until it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_rhythm.lazy import exports

if TYPE_CHECKING:
    from attention_rhythm.generation.base import Completion, Generator, SamplingConfig
    from attention_rhythm.generation.hf import HFGenerator
    from attention_rhythm.generation.vllm import VLLMGenerator

__all__ = ["Completion", "Generator", "HFGenerator", "SamplingConfig", "VLLMGenerator"]
__getattr__ = exports(
    __name__,
    {
        "attention_rhythm.generation.base": ["Completion", "Generator", "SamplingConfig"],
        "attention_rhythm.generation.hf": ["HFGenerator"],
        "attention_rhythm.generation.vllm": ["VLLMGenerator"],
    },
)
