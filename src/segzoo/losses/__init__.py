"""Losses of semantic segmentation, on logits at the labels' resolution."""

from segzoo.losses.cross_entropy import cross_entropy

__all__ = ["cross_entropy"]
