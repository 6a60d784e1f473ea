"""A pyramid of maps of one width, in which each map also has what the coarser ones found.

"Feature Pyramid Networks for Object Detection" (Lin et al., 2017), https://arxiv.org/abs/1612.03144, with the options and
numbers of mmsegmentation's and mmdetection's ``FPN``.
"""

from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_neck
from segzoo.base import Activation, ConvBlockConfig, strict
from segzoo.layers import ConvNormAct, resize
from segzoo.necks.base import MapRangeNeckConfig, Neck


@strict
class FPNNeckConfig(ConvBlockConfig, MapRangeNeckConfig):
    """Options of ``FPNNeck``, besides ``norm``, ``norm_eps`` and ``activation`` of its convolutions.

    Args:
        in_channels, first_map, end_map: as in ``MapRangeNeckConfig``.
        channels: channels of all returned maps.
        extra_maps: number of maps that are added, each half as fine as the one before it.
        extra_convs: what a convolution with stride 2 makes the first added map from: the coarsest map that is used
            ("input"), its sum before ("lateral") or after the last convolution ("output"); further ones are made from the
            map before them. None takes every other pixel of the map before it, without convolutions.
        activate_extra: a ReLU before the convolutions of the second and further added maps.
        norm_lateral: whether the 1x1 convolutions of the maps have the norm too.
        upsampling: how a coarser map is resized before it is added: "nearest" or "bilinear".
        align_corners: of "bilinear".

    Raises:
        SegZooError: ``first_map`` and ``end_map`` name no map.
    """

    model_type = "segzoo_fpn_neck"

    norm: Literal["batch_norm", "group_norm"] | None = None
    activation: Activation | None = None
    channels: int = 256
    extra_maps: int = 0
    extra_convs: Literal["input", "lateral", "output"] | None = None
    activate_extra: bool = False
    norm_lateral: bool = True
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    align_corners: bool = False

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 16, 24, 32], channels=16, extra_maps=1, extra_convs="output")


class FPNNeck(Neck):
    """Returns ``config.channels`` wide maps of the sizes of those that are used, and the added ones after them."""

    config: FPNNeckConfig

    def __init__(self, config: FPNNeckConfig):
        super().__init__(config)
        used, width = config.in_channels[config.used], config.channels
        lateral = config.block_options | ({} if config.norm_lateral else {"norm": None})
        self.lateral_convs = nn.ModuleList(ConvNormAct(channels, width, 1, **lateral) for channels in used)
        self.fpn_convs = nn.ModuleList(config.block(width, width, 3, padding=1) for _ in used)
        sources = [used[-1] if config.extra_convs == "input" else width, *[width] * config.extra_maps]
        self.extra_convs = nn.ModuleList(
            config.block(channels, width, 3, stride=2, padding=1)
            for channels in sources[: config.extra_maps if config.extra_convs else 0]
        )
        self.out_channels = [width] * (len(used) + config.extra_maps)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, in_channels[i], H_i, W_i) -> maps (B, channels, H_i, W_i) of those used, then the added ones.

        Raises:
            SegZooError: the number of maps is not the config's.
        """
        config = self.config
        self.check_count(feature_maps)
        used = feature_maps[config.used]
        sums = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for i in reversed(range(len(sums) - 1)):
            coarser = resize(sums[i + 1], sums[i].shape[-2:], config.upsampling, config.align_corners)
            sums[i] = sums[i] + coarser
        maps = [conv(x) for conv, x in zip(self.fpn_convs, sums, strict=True)]
        if config.extra_convs is None:
            for _ in range(config.extra_maps):
                maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
            return tuple(maps)
        x = {"input": used[-1], "lateral": sums[-1], "output": maps[-1]}[config.extra_convs]
        for i, conv in enumerate(self.extra_convs):
            x = conv(F.relu(x) if i and config.activate_extra else x)
            maps.append(x)
        return tuple(maps)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.xavier_uniform_(module.weight)


register_neck(FPNNeckConfig, FPNNeck)
