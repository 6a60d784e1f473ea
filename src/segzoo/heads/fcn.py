"""FCN head: a few convolutions and a classifier.

From "Fully Convolutional Networks for Semantic Segmentation" (Long et al., 2015), https://arxiv.org/abs/1411.4038, in the form
that mmsegmentation (https://github.com/open-mmlab/mmsegmentation, ``FCNHead``) trains, also as auxiliary head.
"""

from collections.abc import Sequence

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import ConvNormAct, concatenate


@strict
class FCNHeadConfig(HeadConfig):
    """Options of ``FCNHead`` beside those of ``HeadConfig``.

    Args:
        num_convs: number of convolutions before the classifier; 0 classifies the map as it is.
        kernel_size: of the convolutions, odd.
        dilation: of the convolutions (not of the one after the concatenation).
        concat_input: whether the convolutions' output is concatenated with the input and fused.
        resize_concat: resize all maps to the first one's size and concatenate them, instead of reading one map.
    """

    model_type = "segzoo_fcn_head"

    in_index: Ints | None = (-1,)
    num_convs: int = 2
    kernel_size: int = 3
    dilation: int = 1
    concat_input: bool = True
    resize_concat: bool = False

    def check(self):
        """Refuse several maps without ``resize_concat``, and a head without convolutions that changes the width."""
        super().check()
        maps = self.in_channels or self.in_index or [0]
        if len(maps) != 1 and not self.resize_concat:
            raise SegZooError(
                f"FCNHeadConfig reads {len(maps)} maps; set resize_concat=True to concatenate them, or name one"
            )
        if self.num_convs < 0 or self.kernel_size % 2 == 0:
            raise SegZooError(
                f"FCNHeadConfig: num_convs={self.num_convs} must not be negative, kernel_size={self.kernel_size} odd"
            )
        if self.num_convs == 0 and self.in_channels is not None and sum(self.in_channels) != self.channels:
            raise SegZooError(
                f"FCNHeadConfig: without convolutions channels={self.channels} must equal the input's {sum(self.in_channels)}"
            )

    @classmethod
    def tiny(cls):
        return cls(in_channels=[32], in_index=[2], channels=16, num_labels=5)


class FCNHead(Head):
    """Reads one map (or the concatenation of several), returns logits at its resolution."""

    config: FCNHeadConfig

    def __init__(self, config: FCNHeadConfig):
        super().__init__(config)
        in_channels, width, kernel = sum(config.in_channels), config.channels, config.kernel_size
        self.convs = nn.Sequential(
            *(
                ConvNormAct(
                    in_channels if i == 0 else width,
                    width,
                    kernel,
                    padding=kernel // 2 * config.dilation,
                    dilation=config.dilation,
                    norm_eps=config.norm_eps,
                )
                for i in range(config.num_convs)
            )
        )
        self.conv_cat = None
        if config.concat_input:
            self.conv_cat = ConvNormAct(
                in_channels + width, width, kernel, padding=kernel // 2, norm_eps=config.norm_eps
            )
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """Logits of feature maps, each (B, C, H, W); ``previous`` (an earlier head's output) is not read."""
        x = concatenate(self.select(feature_maps), align_corners=self.config.align_corners)
        features = self.convs(x)
        if self.conv_cat is not None:
            features = self.conv_cat(torch.cat([x, features], dim=1))
        return HeadOutput(logits=self.classify(features))


register_head(FCNHeadConfig, FCNHead)
