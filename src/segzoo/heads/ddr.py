"""DDRNet's head: one of the sum of both branches, and while training another of the details.

From "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes" (Hong et al., 2021),
https://arxiv.org/abs/2101.06085, as mmsegmentation's ``DDRHead`` trains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import ConvNormAct
from segzoo.layers.conv import ACTIVATIONS, build_norm
from segzoo.losses import CrossEntropyLoss, Ohem

HARD_PIXELS = CrossEntropyLoss(average="kept", ohem=Ohem(threshold=0.9, min_kept=131072, per_batch=True))


@strict
class DDRHeadConfig(HeadConfig):
    """Options of ``DDRHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the details, which have logits in training alone, and last of the fused map.
        losses: of the model's logits.
        detail_losses: of the logits of the details, which begin with ``details.`` among a model's losses.

    Raises:
        SegZooError: the head does not read its two maps.
    """

    model_type = "segzoo_ddr_head"
    loss_fields: ClassVar[tuple[str, ...]] = ("losses", "detail_losses")
    num_maps: ClassVar[int] = 2

    in_index: Ints | None = (0, -1)
    channels: int = 64
    dropout: float = 0.0
    losses: list | tuple = (HARD_PIXELS,)
    detail_losses: list | tuple = (CrossEntropyLoss(weight=0.4, average="kept", ohem=HARD_PIXELS.ohem),)

    def check(self) -> None:
        """There are as many maps as the head reads."""
        super().check()
        for maps in (self.in_channels, self.in_index):
            if maps is not None and len(maps) != self.num_maps:
                raise SegZooError(
                    f"{type(self).__name__} reads {self.num_maps} maps, and not {len(maps)}; set in_index to fit"
                )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32, 64], in_index=[0, 1], channels=8, num_labels=5)


@dataclass
class DDRHeadOutput(HeadOutput):
    """Output of ``DDRHead``.

    Args:
        details: the map whose own logits the training compares with the labels, (batch, channels, height, width).
    """

    details: torch.FloatTensor | None = None


class PreActivated(nn.Module):
    """A norm and an activation, and then a 3x3 convolution with a norm and an activation of its own.

    Args:
        config: gives the norms and, by default, the activations.
        in_channels: channels of the input.
        channels: channels of the result.
        activation: of both; None is the config's.
    """

    def __init__(self, config: HeadConfig, in_channels: int, channels: int, *, activation: str | None = None):
        super().__init__()
        options = config.block_options
        if activation is not None:
            options["activation"] = activation
        self.norm = build_norm(
            options["norm"], in_channels, eps=options["norm_eps"], momentum=options["norm_momentum"]
        )
        self.activation = nn.Identity() if options["activation"] is None else ACTIVATIONS[options["activation"]]()
        if options["norm"] is None and options["activation"] is not None:
            self.activation.inplace = False  # the input is somebody else's
        self.block = ConvNormAct(in_channels, channels, 3, padding=1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.activation(self.norm(x)))


class DDRHead(Head):
    """Reads the details and the fused map, and returns logits at the latter's resolution."""

    config: DDRHeadConfig

    def __init__(self, config: DDRHeadConfig):
        super().__init__(config)
        self.branch = PreActivated(config, config.in_channels[-1], config.channels)
        self.detail_branch = PreActivated(config, config.in_channels[0], config.channels)
        self.detail_classifier = self.build_classifier(config)
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        return self.branch(maps[-1])

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> DDRHeadOutput:
        """As `Head.forward`; the branch of the details runs with the losses, and not without labels."""
        maps = self.select(feature_maps)
        return DDRHeadOutput(logits=self.classify(self.features(*maps)), details=maps[0])

    def compute_loss(self, output: DDRHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """As `Head.compute_loss`; the losses of the details begin with ``details.``."""
        parts = super().compute_loss(output, labels, ignore_index)
        if not parts:
            return parts
        logits = self.detail_classifier(self.detail_branch(output.details))
        found = self.compare(logits, self.detail_losses, labels, ignore_index)
        return parts | {f"details.{name}": value for name, value in found.items()}


register_head(DDRHeadConfig, DDRHead)
