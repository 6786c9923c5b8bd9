"""For every test: PyTorch on at most two threads, so that times mean the same on every machine."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _two_threads():
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))
