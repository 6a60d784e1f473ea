"""MobileNetV3 as segmentation uses it: large and small, at stride 8 with dilated depthwise convolutions.

"Searching for MobileNetV3" (Howard et al., 2019), https://arxiv.org/abs/1905.02244. The numbers are those of
mmsegmentation's ``MobileNetV3`` (https://github.com/open-mmlab/mmsegmentation), which pads strided convolutions as
TensorFlow does. torchvision's has other strides and pads evenly.
"""

from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import ConvBlockConfig, strict
from segzoo.errors import SegZooError

# For each block: kernel, channels inside, channels, whether it squeezes, activation, whether it halves the map.
BLOCKS = {
    "large": (
        (3, 16, 16, False, "relu", False),
        (3, 64, 24, False, "relu", True),
        (3, 72, 24, False, "relu", False),
        (5, 72, 40, True, "relu", True),
        (5, 120, 40, True, "relu", False),
        (5, 120, 40, True, "relu", False),
        (3, 240, 80, False, "hardswish", False),
        (3, 200, 80, False, "hardswish", False),
        (3, 184, 80, False, "hardswish", False),
        (3, 184, 80, False, "hardswish", False),
        (3, 480, 112, True, "hardswish", False),
        (3, 672, 112, True, "hardswish", False),
        (5, 672, 160, True, "hardswish", False),
        (5, 960, 160, True, "hardswish", False),
        (5, 960, 160, True, "hardswish", False),
    ),
    "small": (
        (3, 16, 16, True, "relu", True),
        (3, 72, 24, False, "relu", True),
        (3, 88, 24, False, "relu", False),
        (5, 96, 40, True, "hardswish", False),
        (5, 240, 40, True, "hardswish", False),
        (5, 240, 40, True, "hardswish", False),
        (5, 120, 48, True, "hardswish", False),
        (5, 144, 48, True, "hardswish", False),
        (5, 288, 96, True, "hardswish", False),
        (5, 576, 96, True, "hardswish", False),
        (5, 576, 96, True, "hardswish", False),
    ),
}
# Where the classification network halves the map a third and a fourth time, dilations of 2 and 4 begin instead.
DILATED_FROM = {"large": (7, 13), "small": (4, 9)}
# From this block on the channels are divided by `reduction_factor`.
REDUCED_FROM = {"large": 13, "small": 9}
LAST_CHANNELS = {"large": 960, "small": 576}

VARIANTS = {"mobilenetv3_large": {}, "mobilenetv3_small": {"arch": "small"}}


@strict
class MobileNetV3Config(ConvBlockConfig, BackboneConfig):
    """Options of ``MobileNetV3Backbone``, besides those of its conv blocks, whose activations the architecture fixes.

    Args:
        arch: "large", with a stem, 15 blocks and a last convolution, or "small", with 11 blocks.
        reduction_factor: divisor of the channels of the last blocks, the last convolution excepted.
        norm_eps: epsilon of the norms.
        out_features: names of the returned maps, of which "stage1" and so on are the blocks, and the last one is the
            last convolution; by default the last ones at strides 2 and 4, as LR-ASPP reads them, and the last of all.

    Raises:
        SegZooError: ``reduction_factor`` is not positive.
    """

    model_type = "segzoo_mobilenetv3"

    arch: Literal["large", "small"] = "large"
    reduction_factor: int = 1
    norm_eps: float = 1e-3

    @property
    def num_stages(self) -> int:
        return len(BLOCKS[self.arch]) + 1

    @property
    def default_out_features(self) -> list[str]:
        first = ["stage1", "stage3"] if self.arch == "large" else ["stem", "stage1"]
        return [*first, f"stage{self.num_stages}"]

    def check(self) -> None:
        """The channels that ``reduction_factor`` leaves are some."""
        super().check()
        if not 1 <= self.reduction_factor <= 48:
            raise SegZooError(f"MobileNetV3: reduction_factor={self.reduction_factor} must be between 1 and 48")

    def dilation(self, layer: int) -> int:
        """Dilation of block ``layer``, counted from 1."""
        second, fourth = DILATED_FROM[self.arch]
        return 4 if layer >= fourth else 2 if layer >= second else 1

    @classmethod
    def tiny(cls) -> Self:
        return cls(arch="small", reduction_factor=8)


def squeezed_channels(channels: int) -> int:
    """A quarter of the channels, as the nearest multiple of 8 that is not more than a tenth below."""
    wanted = channels // 4
    rounded = max(8, (wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def pad_as_tensorflow(x: Tensor, kernel: int) -> Tensor:
    """Pad a map (B, C, H, W) so that a convolution with stride 2 and an odd ``kernel`` of 3 at least halves it, rounding up; an odd
    pixel of padding lies at the lower right.
    """
    before, after = (kernel - 3) // 2, (kernel - 1) // 2
    # In programs for any size these are what little arithmetic there is, of positive numbers: ONNX divides negative ones another way.
    return F.pad(x, [before + x.shape[-1] % 2, after, before + x.shape[-2] % 2, after])


class MobileNetV3Block(GradientCheckpointingLayer):
    """A 1x1 convolution that widens, a depthwise one, a squeeze and excitation, and a 1x1 convolution that narrows
    without activation; added to its input where the shapes agree, unless ``adds`` says never.

    Args:
        config: gives the norm of the convolutions.
        in_channels, out_channels: channels of the input and of the output.
        width: channels inside; where they are the input's, the first convolution is left out.
        kernel: side of the depthwise kernels.
        squeezes: whether there is a squeeze and excitation.
        activation: activation of the first two convolutions.
        strided: whether the map is halved.
        dilation: of the depthwise convolution.
        adds: whether the block may have a shortcut.
    """

    def __init__(
        self,
        config: ConvBlockConfig,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        kernel: int,
        squeezes: bool,
        activation: str,
        strided: bool,
        dilation: int,
        adds: bool = True,
    ):
        super().__init__()
        self.kernel, self.strided = kernel, strided
        self.expand = nn.Identity()
        if in_channels != width:
            self.expand = config.block(in_channels, width, 1, activation=activation)
        spread = {"stride": 2} if strided else {"padding": kernel // 2 * dilation, "dilation": dilation}
        self.depthwise = config.block(width, width, kernel, groups=width, activation=activation, **spread)
        self.squeeze = nn.Identity()
        if squeezes:
            self.squeeze = SqueezeExcitation(width, squeezed_channels(width), scale_activation=nn.Hardsigmoid)
        self.project = config.block(width, out_channels, 1, activation=None)
        self.adds = adds and not strided and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        output = self.expand(x)
        if self.strided:
            output = pad_as_tensorflow(output, self.kernel)
        output = self.project(self.squeeze(self.depthwise(output)))
        return x + output if self.adds else output


class MobileNetV3Backbone(Backbone):
    """Returns the maps that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 2, the last maps have stride 8.
    """

    config: MobileNetV3Config
    _no_split_modules = ["MobileNetV3Block"]

    def __init__(self, config: MobileNetV3Config):
        super().__init__(config)
        channels = 16
        self.stem = config.block(config.num_channels, channels, 3, stride=2, activation="hardswish")
        self.num_features = [channels]
        self.stages = nn.ModuleList()
        for layer, (kernel, width, out_channels, squeezes, activation, strided) in enumerate(BLOCKS[config.arch], 1):
            reduction = config.reduction_factor if layer >= REDUCED_FROM[config.arch] else 1
            block = MobileNetV3Block(
                config,
                channels,
                out_channels // reduction,
                width=width // reduction,
                kernel=kernel,
                squeezes=squeezes,
                activation=activation,
                strided=strided,
                dilation=config.dilation(layer),
                adds=layer not in DILATED_FROM[config.arch],  # which halve the map in the classification network
            )
            channels = out_channels // reduction
            self.stages.append(block)
            self.num_features.append(channels)
        self.num_features.append(LAST_CHANNELS[config.arch])
        self.stages.append(config.block(channels, self.num_features[-1], 1, activation="hardswish"))
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.stem(pad_as_tensorflow(pixel_values, 3))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


register_backbone(MobileNetV3Config, MobileNetV3Backbone, variants=VARIANTS)
