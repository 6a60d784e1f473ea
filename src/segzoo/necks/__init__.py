"""Necks: feature maps in, feature maps out. One file a neck; importing this package registers all of them."""

from segzoo.necks.base import Neck, NeckConfig
from segzoo.necks.pyramid import PyramidNeck, PyramidNeckConfig

__all__ = ["Neck", "NeckConfig", "PyramidNeck", "PyramidNeckConfig"]
