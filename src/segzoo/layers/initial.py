"""Initial weights that differ from what `SegZooPreTrainedModel` draws, of several papers' code."""

import math

from torch import nn
from transformers import initialization as init


def reset_as_torch(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialise a layer as torch itself does, where the original leaves it unchanged."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        init.uniform_(layer.bias, -bound, bound)


def reset_by_group(conv: nn.Conv2d) -> None:
    """Initialise a convolution by the outputs of one of its groups, of which a depthwise one has one; its bias with zeros.

    torch's Kaiming rule counts the outputs of all groups: a depthwise kernel of C channels would be sqrt(C) times as
    small. Without groups both are the same.
    """
    outputs = conv.weight[0, 0].numel() * conv.out_channels // conv.groups
    init.normal_(conv.weight, std=math.sqrt(2 / outputs))
    if conv.bias is not None:
        init.zeros_(conv.bias)
