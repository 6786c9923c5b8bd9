"""Models to be trained by a test."""

import pytest

from tests.support.models import build_trained


@pytest.fixture
def new_model():
    """`new_model("llama", seed=1)`: a fresh one, to be trained by its test."""
    return build_trained
