"""Necks: feature maps in, feature maps out. Each neck has a file; importing this package registers all of them."""

from segzoo.necks.base import Neck, NeckConfig
from segzoo.necks.fpn import FPNNeck, FPNNeckConfig
from segzoo.necks.icnet import ICNeck, ICNeckConfig
from segzoo.necks.jpu import JPUNeck, JPUNeckConfig
from segzoo.necks.mla import MLANeck, MLANeckConfig
from segzoo.necks.multilevel import MultiLevelNeck, MultiLevelNeckConfig
from segzoo.necks.pyramid import PyramidNeck, PyramidNeckConfig

__all__ = [
    "FPNNeck",
    "FPNNeckConfig",
    "ICNeck",
    "ICNeckConfig",
    "MLANeck",
    "MLANeckConfig",
    "JPUNeck",
    "JPUNeckConfig",
    "MultiLevelNeck",
    "MultiLevelNeckConfig",
    "Neck",
    "NeckConfig",
    "PyramidNeck",
    "PyramidNeckConfig",
]
