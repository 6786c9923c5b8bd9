"""Matrix products by another library: the same numbers and gradients, in the same places."""

import copy

import pytest
import torch
from torch import nn

from attention_rhythm import models, products
from attention_rhythm.models import load_model, mkl_is_slow
from attention_rhythm.products import FastLinear, product, use_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")

POLICY = "training/checkpoints/countdown-policy"


@pytest.fixture
def layers(monkeypatch):
    """(plain, fast) linear layers with the same weights, 5 to 3, that count as large."""
    monkeypatch.setattr(products, "_SMALL", 0)

    def make(bias):
        plain = nn.Linear(5, 3, bias=bias)
        fast = copy.deepcopy(plain)
        use_onednn(fast)
        assert type(fast) is FastLinear and isinstance(fast, nn.Linear)
        return plain, fast

    return make


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (2, 4, 5), (5,)])
def test_outputs_and_gradients_are_those_of_pytorch(layers, bias, shape):
    results = []
    for layer in layers(bias):
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
        out = layer(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in layer.parameters())])
        with torch.no_grad():
            torch.testing.assert_close(layer(x.detach()), out)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_of_what_is_not_trained_are_not_made(layers):
    _, fast = layers(True)
    fast.weight.requires_grad_(False)
    x = torch.ones(4, 5, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None and fast.weight.grad is None and fast.bias.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_formats_are_left_to_pytorch(layers, dtype):
    plain, fast = (layer.to(dtype) for layer in layers(True))
    x = torch.ones(4, 5, dtype=dtype)
    assert torch.equal(fast(x), plain(x))


def test_layers_of_another_kind_are_left_as_they_are(layers):
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(2, 2), nn.LayerNorm(2))
    use_onednn(model)
    assert type(model[0]) is Own


def test_other_processors_keep_their_products(monkeypatch):
    monkeypatch.setattr(models, "mkl_is_slow", lambda: False)
    model, _ = load_model(POLICY)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}


def test_a_loaded_model_has_the_faster_products_of_this_processor():
    model, _ = load_model(POLICY)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {FastLinear if mkl_is_slow() else nn.Linear}
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("pairs, m, s, d", [(1, 1, 1, 1), (1, 5, 1, 3), (1, 1, 7, 64), (1, 192, 130, 8), (3, 5, 7, 2)])
def test_products_of_pairs_of_every_shape(monkeypatch, pairs, m, s, d):
    monkeypatch.setattr(products, "_SMALL", 0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(pairs, m, d, generator=generator), torch.randn(pairs, d, s, generator=generator).mT
    for right in (y, y.contiguous()):
        torch.testing.assert_close(product(x, right), torch.einsum("pmd,psd->pms", x, y))
