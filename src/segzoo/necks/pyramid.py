"""A pyramid of four scales from the single-scale maps of a plain ViT.

"Exploring Plain Vision Transformer Backbones for Object Detection" (Li et al., 2022),
https://arxiv.org/abs/2203.16527, in the form of mmsegmentation's ``Feature2Pyramid``
(https://github.com/open-mmlab/mmsegmentation): no shared projection, transposed convolutions up, max pooling down.
"""

from collections.abc import Sequence
from typing import Self

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from segzoo.auto import register_neck
from segzoo.errors import SegZooError
from segzoo.layers import BatchNorm2d
from segzoo.necks.base import Neck, NeckConfig


@strict
class PyramidNeckConfig(NeckConfig):
    """Options of ``PyramidNeck``.

    Args:
        in_channels: channels of one map, which then feeds all four scales, or of four maps, one per scale from fine to
            coarse.
        norm_eps: epsilon of the batch norm between the two upsamplings of the finest scale.

    Raises:
        SegZooError: there are neither one map nor four.
    """

    model_type = "segzoo_pyramid_neck"

    norm_eps: float = 1e-5

    def check(self) -> None:
        """The neck reads one map or four."""
        super().check()
        if self.in_channels is not None and len(self.in_channels) not in (1, 4):
            raise SegZooError(
                f"PyramidNeckConfig takes one map or four, but in_channels={self.in_channels}; "
                "set the backbone's out_indices to one layer or four"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16, 16, 16, 16])


class PyramidNeck(Neck):
    """Rescales maps of equal size by 4, 2, 1 and 1/2, which for patches of 16 gives strides 4, 8, 16 and 32."""

    config: PyramidNeckConfig

    def __init__(self, config: PyramidNeckConfig):
        super().__init__(config)
        channels = config.in_channels * (4 // len(config.in_channels))
        self.out_channels = channels
        self.upsample_4x = nn.Sequential(
            nn.ConvTranspose2d(channels[0], channels[0], kernel_size=2, stride=2),
            BatchNorm2d(channels[0], eps=config.norm_eps),
            nn.GELU(),
            nn.ConvTranspose2d(channels[0], channels[0], kernel_size=2, stride=2),
        )
        self.upsample_2x = nn.ConvTranspose2d(channels[1], channels[1], kernel_size=2, stride=2)
        self.downsample_2x = nn.MaxPool2d(kernel_size=2, stride=2)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, C, H, W), or four of one size -> four maps of 4, 2, 1 and 1/2 times H x W, rounded down.

        Raises:
            SegZooError: the number of maps is not the config's, or they are too small to be halved.
        """
        if len(feature_maps) != len(self.config.in_channels):
            raise SegZooError(
                f"PyramidNeck was built for {len(self.config.in_channels)} maps but was given {len(feature_maps)}"
            )
        if min(feature_maps[-1].shape[-2:]) < 2:
            raise SegZooError(
                f"PyramidNeck cannot halve a map of {tuple(feature_maps[-1].shape[-2:])}; give images of at least two patches a side"
            )
        x4, x2, x1, x0 = feature_maps if len(feature_maps) == 4 else [feature_maps[0]] * 4
        return self.upsample_4x(x4), self.upsample_2x(x2), x1, self.downsample_2x(x0)


register_neck(PyramidNeckConfig, PyramidNeck)
