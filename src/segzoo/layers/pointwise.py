"""A linear layer over the channels of maps and tokens, computed by whichever library is faster."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_exporting

# Builds of PyTorch whose matrix products in float32 come from MKL and whose convolutions come from oneDNN (x86).
_TWO_LIBRARIES = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


class PointwiseLinear(nn.Linear):
    """``nn.Linear`` over the channels of a channels-last map (B, H, W, C), or of tokens (B, N, C).

    In float32 on an x86 CPU it runs as the 1x1 convolution that it is: oneDNN is as fast as MKL on Intel's processors
    and twice as fast on AMD's, where MKL leaves half of the vector units idle.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.ndim not in (3, 4)
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or not _convolutions_are_faster()
        ):
            return super().forward(x)
        images = x.unsqueeze(1) if x.ndim == 3 else x
        # In this order of axes the weight is channels-last too, else compiled graphs would reorder the images for it.
        y = F.conv2d(images.permute(0, 3, 1, 2), self.weight[:, None, None].permute(0, 3, 1, 2), self.bias).permute(
            0, 2, 3, 1
        )
        return y.squeeze(1) if x.ndim == 3 else y


def _convolutions_are_faster() -> bool:
    """False under autocast, where both forms use oneDNN, and with one thread, where PyTorch does not use it."""
    if not _TWO_LIBRARIES or is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    return torch.compiler.is_compiling() or torch.get_num_threads() > 1  # which a compiled graph cannot ask for
