"""What two readings of the same signals are compared by, and how large a tensor a reading makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention_rhythm.signals.reading import SignalConfig

EVERY_LAYER = SignalConfig(layers="all", num_layers=None)


def assert_equal_signals(streaming, dense):
    torch.testing.assert_close(streaming.waad, dense.waad, atol=1e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(streaming.fai, dense.fai, atol=1e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(streaming.head_span, dense.head_span, atol=0, rtol=1e-5)
    assert torch.equal(streaming.local_heads, dense.local_heads)
    assert torch.equal(streaming.global_heads, dense.global_heads)
    assert torch.equal(streaming.layers, dense.layers)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().size():
                self.elements = max(self.elements, tensor.untyped_storage().size() // tensor.element_size())
        return out
