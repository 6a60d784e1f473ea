from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor  # noqa: F401
