"""A GPU that is pretended: tensors that say they are on it, and refuse to meet those of the CPU.

Each holds a CPU tensor, on which everything is computed. So code that makes a tensor on the wrong device fails here as
it would on a GPU, while its numbers are those of the CPU. What is not pretended: kernels, rounding, speed, memory.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
GPU = torch.device("cuda:0")


class OnGpu(torch.Tensor):
    """A tensor whose device is said to be a GPU. (To PyTorch's own C++ it lies on the CPU.)"""

    @staticmethod
    def __new__(cls, inner):
        with torch.inference_mode(False):  # a tensor of inference may not be the view of another
            return torch.Tensor._make_wrapper_subclass(
                cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
            )

    def __init__(self, inner):
        self.inner = inner.detach()

    def __repr__(self):
        return f"OnGpu({self.inner})"

    @property
    def device(self):
        return GPU

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        meeting = (args, kwargs)
        if packet in (aten.index, aten.index_put, aten.index_put_):  # indices may be on the CPU
            meeting = (args[0], args[2:3])
        tensors = [x for x in tree_flatten(meeting)[0] if isinstance(x, torch.Tensor) and x.ndim]
        if packet is not aten.copy_ and not all(isinstance(x, OnGpu) for x in tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")
        bare = tree_map_only(OnGpu, lambda x: x.inner, (args, kwargs))
        with torch.inference_mode(False):
            out = _OF_GPUS.get(packet, func)(*bare[0], **bare[1])
        if packet is not aten.copy_ or isinstance(args[0], OnGpu):
            out = tree_map_only(torch.Tensor, OnGpu, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def _efficient_attention(q, k, v, bias, with_lse, dropout, causal, scale=None):
    """CUDA's kernel in ordinary products; it pads the rows of its log-sum-exp to a multiple of 32."""
    assert bias is None and with_lse and not dropout and causal
    scores = (q @ k.mT * scale).masked_fill(torch.ones(q.shape[2], k.shape[2]).triu(1).bool(), -torch.inf)
    lse = torch.nn.functional.pad(scores.logsumexp(-1), (0, -q.shape[2] % 32), value=torch.inf)
    return scores.softmax(-1) @ v, lse, torch.zeros(()), torch.zeros(())


_OF_GPUS = {aten._scaled_dot_product_efficient_attention: _efficient_attention}

# What makes its result in C++, on the device that a tensor has there.
_MADE_INSIDE = (torch.nn.functional.one_hot, torch._C._nn.pad_sequence)


def _is_gpu(device):
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


class _Moves(TorchFunctionMode):
    """What is made on a GPU, moved to it or away from it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        here = bool(args) and isinstance(args[0], OnGpu)
        if func is torch.Tensor.tolist and here:
            return args[0].inner.tolist()
        if func is torch.Tensor.numpy and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if func is torch.Tensor.cpu:
            return args[0].inner if here else args[0]
        if func is torch.Tensor.to:
            return self.moved(here, *args, **kwargs)
        if func in _MADE_INSIDE:
            bare = tree_map_only(OnGpu, lambda x: x.inner, (args, kwargs))
            far = any(isinstance(x, OnGpu) for x in tree_flatten((args, kwargs))[0])
            return OnGpu(func(*bare[0], **bare[1])) if far else func(*args, **kwargs)
        if not _is_gpu(kwargs.get("device")):
            return func(*args, **kwargs)
        out = func(*args, **kwargs | {"device": "cpu"})
        return out if isinstance(out, OnGpu) else OnGpu(out)

    @staticmethod
    def moved(here, x, *where, **named):
        """`x.to(...)`: to a device, a dtype, both, or those of another tensor."""
        given = [*where, named.get("device"), named.get("dtype"), named.get("other")]
        given = [part for one in given for part in ((one.device, one.dtype) if torch.is_tensor(one) else (one,))]
        devices = [torch.device(one) for one in given if isinstance(one, (str, torch.device))]
        dtypes = [one for one in given if isinstance(one, torch.dtype)]
        if devices and _is_gpu(devices[0]) != here:
            x = x.inner if here else OnGpu(x)
        return x.to(dtypes[0]) if dtypes and dtypes[0] != x.dtype else x


@contextmanager
def pretended_gpu(monkeypatch):
    """Inside the block tensors can be made on "cuda"."""
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    with _Moves():
        yield


def moved(model):
    """The model with its weights on the GPU; tied ones stay tied."""
    there = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in there:
                    there[id(parameter)] = torch.nn.Parameter(OnGpu(parameter.data), parameter.requires_grad)
                module._parameters[name] = there[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else OnGpu(buffer)
    return model
