"""Multi-scale deformable attention in Triton: forward and backward over tensors.

The operator of "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (Zhu et al., 2021),
https://arxiv.org/abs/2010.04159. The functions register no operator and record no gradient; `layers` has a layer that does, for
``kernels.kernelize``.
"""

from . import layers
from .functions import ms_deform_attn_backward, ms_deform_attn_forward

__all__ = ["ms_deform_attn_backward", "ms_deform_attn_forward", "layers"]
