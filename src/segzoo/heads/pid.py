"""PIDNet's head: of the fused map, and while training of the details and of the boundaries.

From "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers" (Xu et al., 2022),
https://arxiv.org/abs/2206.02066, as mmsegmentation's ``PIDHead`` trains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import HeadOutput
from segzoo.heads.ddr import HARD_PIXELS, DDRHead, DDRHeadConfig, DDRHeadOutput, PreActivated
from segzoo.layers import resize
from segzoo.layers.conv import Conv2d
from segzoo.losses import BoundaryLoss, CrossEntropyLoss, class_boundaries
from segzoo.losses.base import factor


@strict
class PIDHeadConfig(DDRHeadConfig):
    """Options of ``PIDHead``, besides those of ``DDRHeadConfig``. The names of losses are those of a model's losses.

    Args:
        in_index: positions of the details, of the boundaries and of the fused map.
        boundary_losses: of the model's logits at the pixels whose boundary logit is sure, ``boundaries.`` and the name.
        boundary_weight: weight of the loss "boundary", of the boundaries' logits against those of the labels.
        boundary_width: width of a boundary of the labels, in pixels.
        boundary_threshold: a boundary logit is sure where its probability is above this.

    Raises:
        SegZooError: ``boundary_weight`` is no weight, or ``boundary_threshold`` no probability.
    """

    model_type = "segzoo_pid_head"
    loss_fields: ClassVar[tuple[str, ...]] = ("losses", "detail_losses", "boundary_losses")
    num_maps: ClassVar[int] = 3

    in_index: Ints | None = (0, 1, -1)
    channels: int = 128
    dropout: float = 0.1
    align_corners: bool = True
    detail_losses: list | tuple = (CrossEntropyLoss(weight=0.4),)
    boundary_losses: list | tuple = (HARD_PIXELS,)
    boundary_weight: float = 20.0
    boundary_width: int = 4
    boundary_threshold: float = 0.8

    def check(self) -> None:
        """The weight and the threshold are in their ranges."""
        super().check()
        factor(self.boundary_weight, "PIDHeadConfig: boundary_weight")
        if not 0 <= self.boundary_threshold <= 1:
            raise SegZooError(f"PIDHeadConfig: boundary_threshold={self.boundary_threshold} is no probability")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32, 32, 128], in_index=[0, 1, 2], channels=8, boundary_width=1, num_labels=5)


@dataclass
class PIDHeadOutput(DDRHeadOutput):
    """Output of ``PIDHead``.

    Args:
        boundaries: the map whose logits the training compares with the boundaries of the labels, (batch, channels,
            height, width).
    """

    boundaries: torch.FloatTensor | None = None


class PIDHead(DDRHead):
    """Reads details, boundaries and the fused map, and returns logits at the latter's resolution."""

    config: PIDHeadConfig

    def __init__(self, config: PIDHeadConfig):
        super().__init__(config)
        _, channels, fused = config.in_channels
        width = max(fused // 4, 1)
        self.boundary_branch = PreActivated(config, channels, width, activation="relu")
        self.boundary_classifier = Conv2d(width, 1, kernel_size=1)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> PIDHeadOutput:
        """As `Head.forward`; the other branches run with the losses, and not without labels."""
        maps = self.select(feature_maps)
        return PIDHeadOutput(logits=self.classify(self.features(*maps)), details=maps[0], boundaries=maps[1])

    def compute_loss(self, output: PIDHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """As `DDRHead.compute_loss`, and the losses at boundaries and of them.

        Where ids differ is a boundary; those of pixels that do not count make none, but count as no boundary.
        """
        parts = super().compute_loss(output, labels, ignore_index)
        if not parts:
            return parts
        config, logits = self.config, self.boundary_classifier(self.boundary_branch(output.boundaries))
        wanted = class_boundaries(labels, config.boundary_width, ignore_index)
        parts |= self.compare(logits, [BoundaryLoss(weight=config.boundary_weight)], wanted, ignore_index=-1)
        probability = resize(logits.detach(), labels.shape[-2:], align_corners=config.align_corners)[:, 0].sigmoid()
        at_boundaries = torch.where(probability > config.boundary_threshold, labels, ignore_index)
        found = self.compare(output.logits, self.boundary_losses, at_boundaries, ignore_index)
        return parts | {f"boundaries.{name}": value for name, value in found.items()}


register_head(PIDHeadConfig, PIDHead)
