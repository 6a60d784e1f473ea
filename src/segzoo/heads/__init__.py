"""Decode heads: feature maps in, logits out. Each head has a file; importing this package registers all of them."""

from segzoo.heads.aspp import ASPPHead, ASPPHeadConfig
from segzoo.heads.base import Head, HeadConfig, HeadOutput, OneMapHeadConfig
from segzoo.heads.fcn import FCNHead, FCNHeadConfig
from segzoo.heads.fpn import FPNHead, FPNHeadConfig
from segzoo.heads.mask2former import Mask2FormerHead, Mask2FormerHeadConfig, Mask2FormerHeadOutput
from segzoo.heads.ocr import OCRHead, OCRHeadConfig
from segzoo.heads.psp import PSPHead, PSPHeadConfig
from segzoo.heads.segformer import SegFormerHead, SegFormerHeadConfig
from segzoo.heads.separable_aspp import SeparableASPPHead, SeparableASPPHeadConfig
from segzoo.heads.separable_fcn import SeparableFCNHead, SeparableFCNHeadConfig
from segzoo.heads.uper import UPerHead, UPerHeadConfig

__all__ = [
    "ASPPHead",
    "ASPPHeadConfig",
    "FCNHead",
    "FCNHeadConfig",
    "FPNHead",
    "FPNHeadConfig",
    "Head",
    "HeadConfig",
    "HeadOutput",
    "Mask2FormerHead",
    "Mask2FormerHeadConfig",
    "Mask2FormerHeadOutput",
    "OCRHead",
    "OCRHeadConfig",
    "OneMapHeadConfig",
    "PSPHead",
    "PSPHeadConfig",
    "SegFormerHead",
    "SegFormerHeadConfig",
    "SeparableASPPHead",
    "SeparableASPPHeadConfig",
    "SeparableFCNHead",
    "SeparableFCNHeadConfig",
    "UPerHead",
    "UPerHeadConfig",
]
