"""Decode heads: feature maps in, logits out. Each head has a file; importing this package registers all of them."""

from segzoo.heads.ann import ANNHead, ANNHeadConfig
from segzoo.heads.apcnet import APCHead, APCHeadConfig
from segzoo.heads.aspp import ASPPHead, ASPPHeadConfig
from segzoo.heads.base import Head, HeadConfig, HeadOutput, OneMapHeadConfig
from segzoo.heads.ccnet import CCHead, CCHeadConfig
from segzoo.heads.daformer import DAFormerHead, DAFormerHeadConfig
from segzoo.heads.danet import DAHead, DAHeadConfig, DAHeadOutput
from segzoo.heads.ddr import DDRHead, DDRHeadConfig, DDRHeadOutput
from segzoo.heads.deeplabv2 import DeepLabV2Head, DeepLabV2HeadConfig
from segzoo.heads.dmnet import DMHead, DMHeadConfig
from segzoo.heads.dnlnet import DNLHead, DNLHeadConfig
from segzoo.heads.dpt import DPTHead, DPTHeadConfig
from segzoo.heads.emanet import EMAHead, EMAHeadConfig
from segzoo.heads.encnet import EncHead, EncHeadConfig, EncHeadOutput
from segzoo.heads.fcn import FCNHead, FCNHeadConfig
from segzoo.heads.fpn import FPNHead, FPNHeadConfig
from segzoo.heads.gcnet import GCHead, GCHeadConfig
from segzoo.heads.ham import HamHead, HamHeadConfig
from segzoo.heads.isanet import ISAHead, ISAHeadConfig
from segzoo.heads.knet import KNetHead, KNetHeadConfig, KNetHeadOutput
from segzoo.heads.lraspp import LRASPPHead, LRASPPHeadConfig
from segzoo.heads.mask2former import Mask2FormerHead, Mask2FormerHeadConfig, Mask2FormerHeadOutput
from segzoo.heads.maskformer import MaskFormerHead, MaskFormerHeadConfig
from segzoo.heads.non_local import NonLocalHead, NonLocalHeadConfig
from segzoo.heads.ocr import OCRHead, OCRHeadConfig
from segzoo.heads.pid import PIDHead, PIDHeadConfig, PIDHeadOutput
from segzoo.heads.point import PointHead, PointHeadConfig, PointHeadOutput
from segzoo.heads.psanet import PSAHead, PSAHeadConfig
from segzoo.heads.psp import PSPHead, PSPHeadConfig
from segzoo.heads.queries import QueryHead, QueryHeadConfig, QueryHeadOutput
from segzoo.heads.segformer import SegFormerHead, SegFormerHeadConfig
from segzoo.heads.segmenter import SegmenterHead, SegmenterHeadConfig
from segzoo.heads.separable_aspp import SeparableASPPHead, SeparableASPPHeadConfig
from segzoo.heads.separable_fcn import SeparableFCNHead, SeparableFCNHeadConfig
from segzoo.heads.setr import SETRUPHead, SETRUPHeadConfig
from segzoo.heads.setr_mla import SETRMLAHead, SETRMLAHeadConfig
from segzoo.heads.stdc import STDCHead, STDCHeadConfig
from segzoo.heads.uper import UPerHead, UPerHeadConfig

__all__ = [
    "ANNHead",
    "ANNHeadConfig",
    "APCHead",
    "APCHeadConfig",
    "ASPPHead",
    "ASPPHeadConfig",
    "CCHead",
    "CCHeadConfig",
    "DNLHead",
    "DNLHeadConfig",
    "DMHead",
    "DMHeadConfig",
    "DPTHead",
    "DPTHeadConfig",
    "EMAHead",
    "EMAHeadConfig",
    "DeepLabV2Head",
    "DeepLabV2HeadConfig",
    "EncHead",
    "EncHeadConfig",
    "EncHeadOutput",
    "DAFormerHead",
    "DAFormerHeadConfig",
    "DAHead",
    "DAHeadConfig",
    "DAHeadOutput",
    "DDRHead",
    "DDRHeadConfig",
    "DDRHeadOutput",
    "FCNHead",
    "FCNHeadConfig",
    "FPNHead",
    "FPNHeadConfig",
    "GCHead",
    "GCHeadConfig",
    "HamHead",
    "HamHeadConfig",
    "Head",
    "HeadConfig",
    "HeadOutput",
    "ISAHead",
    "ISAHeadConfig",
    "LRASPPHead",
    "LRASPPHeadConfig",
    "KNetHead",
    "KNetHeadConfig",
    "KNetHeadOutput",
    "Mask2FormerHead",
    "Mask2FormerHeadConfig",
    "Mask2FormerHeadOutput",
    "MaskFormerHead",
    "MaskFormerHeadConfig",
    "NonLocalHead",
    "NonLocalHeadConfig",
    "OCRHead",
    "OCRHeadConfig",
    "OneMapHeadConfig",
    "PointHead",
    "PointHeadConfig",
    "PointHeadOutput",
    "PIDHead",
    "PIDHeadConfig",
    "PIDHeadOutput",
    "PSAHead",
    "PSAHeadConfig",
    "PSPHead",
    "PSPHeadConfig",
    "QueryHead",
    "QueryHeadConfig",
    "QueryHeadOutput",
    "SETRMLAHead",
    "SETRMLAHeadConfig",
    "SETRUPHead",
    "SETRUPHeadConfig",
    "STDCHead",
    "STDCHeadConfig",
    "SegFormerHead",
    "SegFormerHeadConfig",
    "SegmenterHead",
    "SegmenterHeadConfig",
    "SeparableASPPHead",
    "SeparableASPPHeadConfig",
    "SeparableFCNHead",
    "SeparableFCNHeadConfig",
    "UPerHead",
    "UPerHeadConfig",
]
