"""Residual blocks whose sum need not be activated, of networks whose branches exchange sums (DDRNet, PIDNet)."""

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.layers.conv import ConvNormAct


class ResidualBlock(GradientCheckpointingLayer):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 for a bottleneck, added to the input or its 1x1 convolution.

    Args:
        in_channels: channels of the input.
        channels: width of the convolutions; a bottleneck's output has twice as many channels.
        bottleneck: whether the block is a bottleneck.
        stride: stride of the block.
        activate: whether the sum is activated.
    """

    def __init__(self, in_channels: int, channels: int, *, bottleneck: bool, stride: int, activate: bool):
        super().__init__()
        out_channels = 2 * channels if bottleneck else channels
        if bottleneck:
            self.conv1 = ConvNormAct(in_channels, channels, 1)
            self.conv2 = ConvNormAct(channels, channels, 3, stride=stride, padding=1)
            self.conv3 = ConvNormAct(channels, out_channels, 1, activation=None)
        else:
            self.conv1 = ConvNormAct(in_channels, channels, 3, stride=stride, padding=1)
            self.conv2 = ConvNormAct(channels, channels, 3, padding=1, activation=None)
            self.conv3 = nn.Identity()
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNormAct(in_channels, out_channels, 1, stride=stride, activation=None)
        self.activation = nn.ReLU(inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


def residual_blocks(
    in_channels: int, channels: int, depth: int, *, bottleneck: bool = False, stride: int = 1
) -> nn.Sequential:
    """Blocks one after another, the first with the stride. The sums of the last one and of a first bottleneck are not
    activated, except that of a single block that is no bottleneck.

    Args:
        in_channels, channels, bottleneck, stride: as in `ResidualBlock`.
        depth: number of blocks, 1 at least.
    """
    blocks = nn.Sequential()
    for i in range(depth):
        activate = not bottleneck if i == 0 else i < depth - 1
        blocks.append(
            ResidualBlock(in_channels, channels, bottleneck=bottleneck, stride=1 if i else stride, activate=activate)
        )
        in_channels = 2 * channels if bottleneck else channels
    return blocks


def residual_stem(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """Two convolutions and two stages of blocks, the second twice as wide; the stride is 8.

    Args:
        in_channels: channels of the images.
        channels: width of the convolutions and of the first stage.
        depth: number of blocks of a stage.
    """
    return nn.Sequential(
        ConvNormAct(in_channels, channels, 3, stride=2, padding=1),
        ConvNormAct(channels, channels, 3, stride=2, padding=1),
        residual_blocks(channels, channels, depth),
        nn.ReLU(),
        residual_blocks(channels, 2 * channels, depth, stride=2),
        nn.ReLU(),
    )
