"""float32 matrix products of a CPU by oneDNN, which PyTorch's compiler takes, in the place of MKL.

MKL uses half of the AVX-512 units of an AMD processor; oneDNN uses all of them: twice as many products in a second,
rounded as any float32 sum is. `models.load_model` knows the processor and asks for it there.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SMALL = 2_000_000  # multiplications below which the 20 microseconds that a call of oneDNN costs are not won back


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a model multiply float32 matrices by oneDNN; nothing where PyTorch comes without it."""
    if torch.backends.mkldnn.is_available():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = FastLinear


class FastLinear(nn.Linear):
    """`nn.Linear` whose float32 products on a CPU are oneDNN's."""

    def forward(self, x: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows N"]:
        """x W^T + b, in the unit of both."""
        exact = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        if not exact or x.numel() * self.out_features < _SMALL or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            out = _Product.apply(x.reshape(-1, self.in_features), self.weight, self.bias)
            return out.view(*x.shape[:-1], self.out_features)
        return _product(x, self.weight, self.bias)


def product(x: Float[Tensor, "P M K"], y: Float[Tensor, "P N K"]) -> Float[Tensor, "P M N"]:
    """x y^T of each pair, in the unit of both. A single pair, or its transpose y, should be contiguous."""
    differentiable = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    single = len(x) == 1 and x.device.type == "cpu" and x.dtype == y.dtype == torch.float32 and not differentiable
    if single and x.numel() * y.shape[1] >= _SMALL and torch.backends.mkldnn.is_available():
        return _product(x[0], y[0])[None]
    return x @ y.mT


def _product(x: Float[Tensor, "*rows K"], weight: Float[Tensor, "N K"], bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # (*rows, N)


class _Product(torch.autograd.Function):
    """x W^T + b, in the unit of both, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "M K"], weight: Float[Tensor, "N K"], bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "M N"]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_x else None,
            _product(gradient.t(), x.t()) if of_weight else None,
            gradient.sum(0) if ctx.has_bias and of_bias else None,
        )
