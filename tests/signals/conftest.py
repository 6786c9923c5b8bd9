"""Models to be changed by a test."""

import pytest

from tests.support.models import build


@pytest.fixture
def new_model():
    """`new_model("llama", num_hidden_layers=2)`: a fresh one, to be changed by its test."""
    return build
