"""Decode heads: feature maps in, logits out. Each head has a file; importing this package registers all of them."""

from segzoo.heads.base import Head, HeadConfig, HeadOutput, OneMapHeadConfig
from segzoo.heads.fcn import FCNHead, FCNHeadConfig
from segzoo.heads.mask2former import Mask2FormerHead, Mask2FormerHeadConfig, Mask2FormerHeadOutput
from segzoo.heads.psp import PSPHead, PSPHeadConfig
from segzoo.heads.uper import UPerHead, UPerHeadConfig

__all__ = [
    "FCNHead",
    "FCNHeadConfig",
    "Head",
    "HeadConfig",
    "HeadOutput",
    "Mask2FormerHead",
    "Mask2FormerHeadConfig",
    "Mask2FormerHeadOutput",
    "OneMapHeadConfig",
    "PSPHead",
    "PSPHeadConfig",
    "UPerHead",
    "UPerHeadConfig",
]
