"""Operators: one public function each, which picks the fastest form for the place where it runs.

Models call them through layers (`DCNv3`, `MSDeformAttn`), whose forward the ``kernels`` library can replace.
"""

from segzoo.ops.dcnv3 import DCNv3, dcnv3
from segzoo.ops.hub_kernels import kernel_mapping
from segzoo.ops.ms_deform_attn import MSDeformAttn, ms_deform_attn

__all__ = ["DCNv3", "MSDeformAttn", "dcnv3", "kernel_mapping", "ms_deform_attn"]
