"""For every test: shapes of the library are checked, and PyTorch has two threads at most, so that times compare."""

import os
from pathlib import Path

import pytest
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

# Before anything imports the mathematics: every call is checked against its annotations, shapes included.
# But the Triton kernels' module: Triton compiles a function's own source and names, and a checked one has others.
LIBRARY = Path(__file__).parents[1] / "attention_rhythm"
SIGNALS = [f"signals.{path.stem}" for path in sorted((LIBRARY / "signals").glob("[a-z]*.py"))]
MATHEMATICS = [name for name in SIGNALS if name != "signals.streaming_triton"] + ["credit", "grpo", "products"]
install_import_hook([f"attention_rhythm.{name}" for name in MATHEMATICS], "beartype.beartype")


@pytest.fixture
def unchecked():
    """For a test of our own refusals, which the shape check would forestall: a user has no such check."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="session")
def _two_threads():
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A folder with a tiny Qwen3 and a tokenizer of one token a character."""
    from tests.support.models import save_with_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    save_with_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny():
    """`tiny("qwen2", "mqa")`: the model of that kind, made once."""
    from tests.support.models import build

    made = {}

    def get(kind, sharing="gqa"):
        if (kind, sharing) not in made:
            made[kind, sharing] = build(kind, sharing)
        return made[kind, sharing]

    return get


@pytest.fixture(scope="session")
def batch():
    from tests.support.models import make_batch

    return make_batch


@pytest.fixture(scope="session")
def letters():
    from tests.support.models import Letters

    return Letters()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """DATA_DIR; tests that need it are skipped where it is not set."""
    if not os.environ.get("DATA_DIR"):
        pytest.skip("benchmark files not here (DATA_DIR)")
    return Path(os.environ["DATA_DIR"])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No DATA_DIR, an empty hub cache, no network."""
    from huggingface_hub import constants

    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
