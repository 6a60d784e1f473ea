"""A linear layer over the channels of maps and tokens, computed by whichever library is faster."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_exporting

# Builds of PyTorch whose matrix products in float32 come from MKL and whose convolutions come from oneDNN (x86).
TWO_LIBRARIES = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()

_plain: ContextVar[bool] = ContextVar("plain_linears", default=False)


class PointwiseLinear(nn.Linear):
    """``nn.Linear`` over the channels of a channels-last map (B, H, W, C), or of tokens (B, N, C).

    In float32 on an x86 CPU it runs as the 1x1 convolution that it is: oneDNN is as fast as MKL on Intel's processors
    and twice as fast on AMD's, where MKL leaves half of the vector units idle.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> nn.Linear:
        """A layer, or inside `plain_linears` an ``nn.Linear``."""
        return nn.Linear(*args, **kwargs) if _plain.get() else super().__new__(cls)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x`` (..., in_features) -> (..., out_features); a given ``bias`` (out_features,) takes the own one's place."""
        bias = self.bias if bias is None else bias
        if (
            x.ndim not in (3, 4)
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or not _convolutions_are_faster()
            or not is_plain(self.weight)
        ):
            return F.linear(x, self.weight, bias)
        images = x.unsqueeze(1) if x.ndim == 3 else x
        # In this order of axes the weight is channels-last too, else compiled graphs would reorder the images for it.
        y = F.conv2d(images.permute(0, 3, 1, 2), self.weight[:, None, None].permute(0, 3, 1, 2), bias).permute(
            0, 2, 3, 1
        )
        return y.squeeze(1) if x.ndim == 3 else y


@contextmanager
def plain_linears() -> Iterator[None]:
    """Build ``nn.Linear`` itself in place of every `PointwiseLinear`; the names and shapes of weights are the same."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is an ordinary tensor, and not one of a quantiser, which few operators know."""
    return type(weight) in (Tensor, nn.Parameter)


def may_be_skipped(layer: nn.Module) -> bool:
    """Whether a layer may be computed without a call of it: no hook watches its forward, or fills in its weights there."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return not any(hooks) and "forward" not in layer.__dict__  # where off-loading puts its own


def _convolutions_are_faster() -> bool:
    """False under autocast, where both forms use oneDNN, and with one thread, where PyTorch does not use it."""
    if not TWO_LIBRARIES or is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    return torch.compiler.is_compiling() or torch.get_num_threads() > 1  # which a compiled graph cannot ask for
