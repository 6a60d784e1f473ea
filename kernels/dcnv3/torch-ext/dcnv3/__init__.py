"""Deformable convolution v3 (DCNv3) in Triton: forward and backward over tensors.

The operator of "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (Wang et
al., 2023), https://arxiv.org/abs/2211.05778. The functions register no operator and record no gradient; `layers` has a layer that does, for
``kernels.kernelize``.
"""

from . import layers
from .functions import dcnv3_backward, dcnv3_forward

__all__ = ["dcnv3_backward", "dcnv3_forward", "layers"]
