"""Arithmetic that is too delicate for half precision."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def in_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float32 at least; those that are already come back themselves."""
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which products keep the dtype of their tensors, also inside ``torch.autocast``."""
    # A device without autocast, such as the meta device, cannot be asked.
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()  # exports would make the other one a part of the graph


class Float32Linear(nn.Linear):
    """``nn.Linear`` in float32 at least, whatever its weight is kept in; for values beyond float16's 65504."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), float32 or float64."""
        x, weight = in_float32(x, self.weight)
        with without_autocast(x.device):
            return F.linear(x, weight, None if self.bias is None else self.bias.to(weight.dtype))


class Float32LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` in float32 at least, whatever its weight is kept in."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), float32 or float64."""
        return F.layer_norm(*in_float32(x), self.normalized_shape, *in_float32(self.weight, self.bias), self.eps)
