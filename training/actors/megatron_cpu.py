"""What Megatron-core 0.16 needs to run on a CPU over gloo: it names CUDA in its schedules, buffers and optimizer.

Nothing here is active on a machine with CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode


class _CudaMeansCpu(TorchFunctionMode):
    """Tensors asked for on CUDA are made on the CPU, and say they are CUDA's, for Megatron compares names."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(args[0]).replace("torch.", "torch.cuda.", 1)  # "torch.cuda.FloatTensor"
        return func(*args, **kwargs)


@contextmanager
def cuda_means_cpu() -> Iterator[None]:
    """Where there is no CUDA, Megatron-core's "cuda" is the CPU; where there is, nothing."""
    if torch.cuda.is_available():
        yield
        return
    from megatron.core.tensor_parallel import random

    with (
        mock.patch.object(torch.cuda, "current_device", lambda: torch.device("cpu")),
        mock.patch.object(torch.cuda, "synchronize", lambda *_: None),
        # recomputing activations saves and restores the states of CUDA's random numbers
        mock.patch.object(random, "_get_cuda_rng_state", lambda *_, **__: None),
        mock.patch.object(random, "_set_cuda_rng_state", lambda *_, **__: None),
        _CudaMeansCpu(),
    ):
        yield


def _is_cuda(device: object) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )
