"""Generators: one protocol, one file an engine. An engine that is not installed costs nothing until it is made."""

from attention_rhythm.generation.base import Completion, Generator, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.vllm import VLLMGenerator

__all__ = ["Completion", "Generator", "HFGenerator", "SamplingConfig", "VLLMGenerator"]
