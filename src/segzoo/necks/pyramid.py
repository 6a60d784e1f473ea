"""A pyramid of scales from the single-scale maps of a plain ViT.

"Exploring Plain Vision Transformer Backbones for Object Detection" (Li et al., 2022),
https://arxiv.org/abs/2203.16527, in the form of BEiT's segmentation code (https://arxiv.org/abs/2106.08254), which is
mmsegmentation's ``Feature2Pyramid`` too: no shared projection, transposed convolutions up, max pooling down.
"""

from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn

from segzoo.auto import register_neck
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.layers import to_map, to_tokens
from segzoo.layers.conv import NORMS
from segzoo.layers.initial import reset_as_torch
from segzoo.necks.base import Neck, NeckConfig

SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)
_WORDS = ("no", "one", "two", "three", "four", "five")


@strict
class PyramidNeckConfig(NeckConfig):
    """Options of ``PyramidNeck``.

    Args:
        in_channels: channels of one map, which then feeds all scales, or of a map for each scale.
        scales: factor on the side of each map, from fine to coarse: some of 4, 2, 1, 0.5 and 0.25.
        norm: the norm between the two upsamplings of scale 4: "batch_norm", "group_norm" or "layer_norm", over the channels.
        norm_eps: epsilon of that norm.
        layer_norm_eps: epsilon of a layer norm of every map before it is rescaled; None for no layer norms.

    Raises:
        SegZooError: a scale is not one of those or not below the one before it, or there are neither one map nor as
            many as scales.
    """

    model_type = "segzoo_pyramid_neck"

    scales: list[float] | tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    norm: Literal["batch_norm", "group_norm", "layer_norm"] = "batch_norm"
    norm_eps: float = 1e-5
    layer_norm_eps: float | None = None

    def check(self) -> None:
        """The scales are known and fall, and the neck reads one map or one for each."""
        super().check()
        if not self.scales or list(self.scales) != sorted(set(self.scales) & set(SCALES), reverse=True):
            raise SegZooError(
                f"PyramidNeckConfig: scales={list(self.scales)} must be some of 4, 2, 1, 0.5, 0.25, falling"
            )
        if self.in_channels is not None and len(self.in_channels) not in (1, len(self.scales)):
            count = _WORDS[len(self.scales)]
            raise SegZooError(
                f"PyramidNeckConfig takes one map or {count}, but in_channels={self.in_channels}; "
                f"set the backbone's out_indices to one layer or {count}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16, 16, 16, 16])


class PyramidNeck(Neck):
    """Rescales maps of equal size by ``config.scales``; 4, 2, 1, 1/2 give patches of 16 strides 4, 8, 16 and 32."""

    config: PyramidNeckConfig

    def __init__(self, config: PyramidNeckConfig):
        super().__init__(config)
        scales = config.scales
        self.out_channels = list(config.in_channels) * (len(scales) // len(config.in_channels))
        width = dict(zip(scales, self.out_channels, strict=True))
        if config.layer_norm_eps is not None:
            self.layer_norms = nn.ModuleList(nn.LayerNorm(c, eps=config.layer_norm_eps) for c in config.in_channels)
        if 4 in width:
            self.upsample_4x = nn.Sequential(
                _upsample(width[4]), NORMS[config.norm](width[4], eps=config.norm_eps), nn.GELU(), _upsample(width[4])
            )
        if 2 in width:
            self.upsample_2x = _upsample(width[2])
        if 0.5 in width:
            self.downsample_2x = nn.MaxPool2d(kernel_size=2, stride=2)
        if 0.25 in width:
            self.downsample_4x = nn.MaxPool2d(kernel_size=4, stride=4)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, C, H, W), or one for each scale, of one size -> maps of the scales times H x W, rounded down.

        Raises:
            SegZooError: the number of maps is not the config's, or they are too small for the coarsest scale.
        """
        config = self.config
        self.check_count(feature_maps)
        if min(feature_maps[-1].shape[-2:]) * config.scales[-1] < 1:
            fraction, patches = ("halve", "two") if config.scales[-1] == 0.5 else ("quarter", "four")
            raise SegZooError(
                f"PyramidNeck cannot {fraction} a map of {tuple(feature_maps[-1].shape[-2:])}; "
                f"give images of at least {patches} patches a side"
            )
        if config.layer_norm_eps is not None:
            feature_maps = [
                to_map(norm(to_tokens(x)), (x.shape[2], x.shape[3]))
                for norm, x in zip(self.layer_norms, feature_maps, strict=True)
            ]
        maps = list(feature_maps) * (len(config.scales) // len(feature_maps))
        return tuple(self._rescaled(x, scale) for x, scale in zip(maps, config.scales, strict=True))

    def _rescaled(self, x: Tensor, scale: float) -> Tensor:
        match scale:
            case 4:
                return self.upsample_4x(x)
            case 2:
                return self.upsample_2x(x)
            case 0.5:
                return self.downsample_2x(x)
            case 0.25:
                return self.downsample_4x(x)
        return x

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            reset_as_torch(module)
        else:
            super()._init_weights(module)


def _upsample(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


register_neck(PyramidNeckConfig, PyramidNeck)
