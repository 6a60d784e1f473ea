"""The operator as a layer, for ``kernels.kernelize``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .bilinear import autocast, refuse_determinism
from .functions import ms_deform_attn_backward, ms_deform_attn_forward


class _Operator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: "Sequence[tuple[int, int]]", locations: Tensor, weights: Tensor):
        ctx.save_for_backward(locations, weights, value)
        ctx.shapes = shapes
        return ms_deform_attn_forward(value, shapes, locations, weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> "tuple[Tensor | None, ...]":
        refuse_determinism("ms_deform_attn")
        locations, weights, value = ctx.saved_tensors
        gradients = ms_deform_attn_backward(grad_output, value, ctx.shapes, locations, weights)
        return gradients[0], None, *gradients[1:]


class MSDeformAttn(nn.Module):
    """Takes what `ms_deform_attn_forward` takes, with gradients; under autocast the value is cast, the others are not."""

    has_backward = True
    can_torch_compile = False  # a registered operator would be needed

    def forward(
        self,
        value: Tensor,
        spatial_shapes: "Sequence[tuple[int, int]]",
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        """The operator's result, (N, Q, heads * D)."""
        return _Operator.apply(autocast(value), spatial_shapes, sampling_locations, attention_weights)
