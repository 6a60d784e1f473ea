"""Operators: one public function each, that picks the fastest form for where it runs."""

from segzoo.ops.dcnv3 import dcnv3

__all__ = ["dcnv3"]
