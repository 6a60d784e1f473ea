"""Losses of semantic segmentation, on logits that are resized to the labels where they differ in size.

Each is a frozen dataclass that is called: ``DiceLoss(weight=3.0)(logits, labels, ignore_index=255)``. Configs and
recipes hold them as dicts (``{"type": "dice", "weight": 3.0}``), which ``build_loss`` reads and ``loss.to_dict()``
writes. Losses of heads with queries are called by those heads, with more than logits.
"""

from segzoo.losses.base import Loss
from segzoo.losses.boundary import BoundaryLoss, class_boundaries
from segzoo.losses.building import LOSSES, build_loss
from segzoo.losses.cross_entropy import CrossEntropyLoss
from segzoo.losses.dice import DiceLoss
from segzoo.losses.focal import FocalLoss
from segzoo.losses.focal_mask_classification import FocalMaskClassificationLoss
from segzoo.losses.lovasz import LovaszLoss
from segzoo.losses.mask_classification import MaskClassificationLoss
from segzoo.losses.ohem import Ohem
from segzoo.losses.queries import QueryLoss, QueryPredictions

__all__ = [
    "LOSSES",
    "BoundaryLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "FocalMaskClassificationLoss",
    "Loss",
    "LovaszLoss",
    "MaskClassificationLoss",
    "Ohem",
    "QueryLoss",
    "QueryPredictions",
    "build_loss",
    "class_boundaries",
]
