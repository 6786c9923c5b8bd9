"""The folder of benchmark files, where there is one."""

import os
from pathlib import Path

import pytest


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
