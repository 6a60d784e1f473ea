"""The operator as a layer, for ``kernels.kernelize``."""

from typing import Any

import torch
from torch import Tensor, nn

from .bilinear import autocast, refuse_determinism
from .functions import dcnv3_backward, dcnv3_forward


class _Operator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, offset: Tensor, mask: Tensor, options: "dict[str, Any]") -> Tensor:
        ctx.save_for_backward(input, offset, mask)
        ctx.options = options
        return dcnv3_forward(input, offset, mask, **options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> "tuple[Tensor | None, ...]":
        refuse_determinism("dcnv3")
        return *dcnv3_backward(grad_output, *ctx.saved_tensors, **ctx.options), None


class DCNv3(nn.Module):
    """Takes what `dcnv3_forward` takes, with gradients; under autocast the input is cast, offset and mask are not."""

    has_backward = True
    can_torch_compile = False  # a registered operator would be needed

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """The operator's result, (N, Ho, Wo, C)."""
        return _Operator.apply(autocast(input), offset, mask, options)
