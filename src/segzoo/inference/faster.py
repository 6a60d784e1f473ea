"""A model as the commands run it: the same results on a CPU in less time."""

import copy
from itertools import chain

import torch
from torch import nn

from segzoo.layers.pointwise import is_plain
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation


def faster_on_cpu(model: nn.Module, *, fuse: bool = True) -> nn.Module:
    """The model in the channels-last format and after `fuse()`; other models come back as they are.

    That is done for models of segzoo on a CPU with ordinary weights in float32, and without hooks: what a quantiser,
    an adapter or a device map has changed stays as it is.

    Args:
        model: in eval mode; it is not fused itself, but shares its weights with the result.
        fuse: False for the format alone, as under autocast, where fusing is no gain.

    Returns:
        A copy of the model for inference, or the model itself. Results are the same up to rounding.
    """
    if not isinstance(model, SegZooForSemanticSegmentation) or model.fused or not _is_ordinary(model):
        return model
    model.to(memory_format=torch.channels_last)
    if not fuse:
        return model
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).fuse()


def _is_ordinary(model: nn.Module) -> bool:
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return False
    return all(
        is_plain(weight) and weight.device.type == "cpu" and weight.dtype == torch.float32
        for weight in model.parameters()
    )
