"""Operators: one public function each, which picks the fastest form for the place where it runs."""

from segzoo.ops.dcnv3 import dcnv3
from segzoo.ops.ms_deform_attn import ms_deform_attn

__all__ = ["dcnv3", "ms_deform_attn"]
