"""The folder of benchmark files, where there is one."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """DATA_DIR, else `../shared/data` beside the repository; tests that need it are skipped where there is neither."""
    folder = Path(os.environ.get("DATA_DIR") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("benchmark files not here (DATA_DIR)")
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No DATA_DIR, an empty hub cache, no network."""
    from huggingface_hub import constants

    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
