"""DANet's head: attention over positions and attention over channels, side by side.

From "Dual Attention Network for Scene Segmentation" (Fu et al., 2019), https://arxiv.org/abs/1809.02983, as
mmsegmentation's ``DAHead`` trains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.heads.base import Head, HeadOutput, OneMapHeadConfig
from segzoo.layers import SelfAttention, in_float32, without_autocast
from segzoo.layers.conv import Conv2d
from segzoo.layers.initial import reset_as_torch


@strict
class DAHeadConfig(OneMapHeadConfig):
    """Options of ``DAHead``, besides those of ``OneMapHeadConfig``.

    Args:
        pam_channels: width of queries and keys in the attention over positions.
    """

    model_type = "segzoo_da_head"

    channels: int = 512
    pam_channels: int = 64

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, pam_channels=8, num_labels=5)


@dataclass
class DAHeadOutput(HeadOutput):
    """Output of ``DAHead``, with what its further losses are made from.

    Args:
        position_features: features after the attention over positions, (batch, channels, height / stride, width /
            stride).
        channel_features: features after the attention over channels, of the same shape.
    """

    position_features: torch.FloatTensor | None = None
    channel_features: torch.FloatTensor | None = None


class PositionAttention(nn.Module):
    """Adds to each pixel what it finds in all others, times a factor that begins with 0."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        query, key, value = (Conv2d(channels, width, 1) for width in (inner, inner, channels))
        self.attention = SelfAttention(query=query, key=key, value=value, scaled=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.gamma * self.attention(x)


class ChannelAttention(nn.Module):
    """Adds to each channel a mean of all, in which those count most that are least like it, times a factor from 0.

    The products of channels are sums over all pixels. In half precision they would be rounded to whole numbers and more
    before the softmax, or exceed float16, so that the means are computed in float32 at least.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        (channels,) = in_float32(x.flatten(2))
        with without_autocast(x.device):
            # The original subtracts the products from the largest of their row, which a softmax does not see.
            shares = (-(channels @ channels.mT)).softmax(-1)
            found = shares @ channels
        return x + self.gamma * found.view_as(x).to(x.dtype)


class DAHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution.

    Training compares the labels with three logits: of either attention, and of their sum, which are the model's.
    """

    config: DAHeadConfig

    def __init__(self, config: DAHeadConfig):
        super().__init__(config)
        in_channels, width = sum(config.in_channels), config.channels
        self.position_in, self.channel_in = (config.block(in_channels, width, 3, padding=1) for _ in range(2))
        self.position = PositionAttention(width, config.pam_channels)
        self.channel = ChannelAttention()
        self.position_out, self.channel_out = (config.block(width, width, 3, padding=1) for _ in range(2))
        self.position_classifier, self.channel_classifier = (self.build_classifier(config) for _ in range(2))
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> DAHeadOutput:
        """As `Head.forward`; the classifiers of the two attentions run with the losses, and not without labels."""
        (x,) = self.select(feature_maps)
        position = self.position_out(self.position(self.position_in(x)))
        channel = self.channel_out(self.channel(self.channel_in(x)))
        logits = self.classify(position + channel)
        return DAHeadOutput(logits=logits, position_features=position, channel_features=channel)

    def compute_loss(self, output: DAHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """The weighted losses of the head, by name; those of the two attentions begin with ``position.`` and ``channel.``.

        Args:
            output: what ``forward`` returned.
            labels: class ids (B, H, W), int64, at any resolution.
            ignore_index: id of the pixels that do not count.
        """
        parts = super().compute_loss(output, labels, ignore_index)
        if not parts:
            return parts
        for name, classifier, features in (
            ("position", self.position_classifier, output.position_features),
            ("channel", self.channel_classifier, output.channel_features),
        ):
            own = HeadOutput(logits=classifier(self.dropout(features)))
            found = super().compute_loss(own, labels, ignore_index)
            parts |= {f"{name}.{loss}": value for loss, value in found.items()}
        return parts

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (PositionAttention, ChannelAttention)):
            init.zeros_(module.gamma)
        elif module is self.position_classifier or module is self.channel_classifier:
            reset_as_torch(module)
        else:
            super()._init_weights(module)


register_head(DAHeadConfig, DAHead)
