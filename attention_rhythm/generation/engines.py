"""Which engine generates: Hugging Face (always there) or vLLM (optional, faster)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_rhythm.errors import UsageError, unknown
from attention_rhythm.generation.base import Generator
from attention_rhythm.models import context_length

ENGINES = ("auto", "hf", "vllm")


@dataclass(frozen=True)
class Engine:
    """A generator with what its callers need to write prompts for it."""

    name: str
    generator: Generator
    tokenizer: Any
    context: int | None  # tokens, prompt and response together


def make_engine(name: str, model: str, *, dtype: str, device: str) -> Engine:
    """Load `model` (see `models.load_model`) into an engine: hf | vllm | auto (vllm on a GPU, else hf).

    UsageError for another name; MissingEngine if vLLM is asked for and is not installed.
    """
    if name not in ENGINES:
        raise UsageError(unknown("engine", name, ENGINES))
    if name == "auto":
        name = "vllm" if _gpu_with_vllm(device) else "hf"
    if name == "vllm":
        from attention_rhythm.generation.vllm import VLLMGenerator

        generator = VLLMGenerator.load(model, dtype=dtype)
        return Engine(name, generator, generator.tokenizer, generator.context)
    from attention_rhythm.generation.hf import HFGenerator
    from attention_rhythm.models import load_model

    network, tokenizer = load_model(model, dtype=dtype, device=device)
    return Engine(name, HFGenerator(network, tokenizer), tokenizer, context_length(network.config))


def fastest_of_prefixes(model: Any, tokenizer: Any, spec: str, *, dtype: str, context: int) -> Generator:
    """What continues many prefixes of a text fastest: vLLM where it is installed, else the loaded model itself.

    (A fifth faster on two cores: benchmarks/LOG.md, claim 11. A policy of a few million parameters is another matter:
    make it an `HFGenerator`.)

    context: most tokens of prompt, response and continuation, for which vLLM makes room.
    """
    if _vllm_installed():
        from attention_rhythm.generation.vllm import VLLMGenerator

        return VLLMGenerator.load(spec, dtype=dtype, context=context)
    from attention_rhythm.generation.hf import HFGenerator

    return HFGenerator(model, tokenizer)


def _vllm_installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("vllm") is not None


def _gpu_with_vllm(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available() and _vllm_installed()
