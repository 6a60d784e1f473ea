"""A model as the commands run it: the same results on a CPU in less time."""

import copy
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from segzoo.configuration_segzoo import input_channels
from segzoo.errors import SegZooError
from segzoo.inference.settings import InferenceSettings, MemoryFormat
from segzoo.inference.timing import FORMATS, faster_format, seconds_of_formats
from segzoo.layers.pointwise import is_plain
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

MEASURED_SIDE = 512
"""The longest side of what is measured, in pixels: a part of a larger picture is enough to compare memory formats."""


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
    if not isinstance(model, SegZooForSemanticSegmentation) or model.fused or not is_ordinary(model):
        return model
    model.to(memory_format=torch.channels_last)
    return fused_copy(model) if fuse else model


def fused_copy(model: nn.Module) -> nn.Module:
    """A model after `fuse()`, which shares the other weights with the given one; others come back as they are.

    That is done for the models of `faster_on_cpu`, in eval mode.
    """
    if not isinstance(model, SegZooForSemanticSegmentation) or model.fused or not is_ordinary(model):
        return model
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).fuse()


def in_memory_format(
    model: nn.Module,
    asked: MemoryFormat,
    size: tuple[int, int],
    *,
    autocast: bool = False,
    bfloat16: bool = False,
    folder: Path | None = None,
) -> str | None:
    """Put a model into the memory format that is asked for, or into the faster one of the two.

    That is measured for models of segzoo on a CPU, without hooks, in float32 or bfloat16; others stay as they are
    unless a format is asked for. Results are the same up to rounding.

    Args:
        model: in eval mode; it is changed in place.
        asked: a format, or ``"auto"`` for the faster one.
        size: height and width of the inputs in pixels.
        autocast: whether the model will run under bfloat16 autocast.
        bfloat16: say what bfloat16 autocast would bring, too.
        folder: where measurements are kept; see `seconds_of_formats`.

    Returns:
        A line for people that says what was chosen; None if nothing was, as where the model refuses what is measured.
    """
    if asked != "auto":
        model.to(memory_format=FORMATS[asked])
        return f"memory format: {asked}, as asked for"
    if not isinstance(model, SegZooForSemanticSegmentation) or not is_ordinary(model, (torch.float32, torch.bfloat16)):
        return None
    weight = next(model.parameters())
    # Part of the picture is enough to compare the two.
    shape = (1, input_channels(model.config), *(min(side, MEASURED_SIDE) for side in size))
    pixel_values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    try:
        seconds = seconds_of_formats(model, pixel_values, autocast=autocast, bfloat16=bfloat16, folder=folder)
    except SegZooError:  # a model that does not take this part; of the whole picture it will say so itself
        return None
    chosen = faster_format(seconds)
    model.to(memory_format=FORMATS[chosen])
    (other,) = FORMATS.keys() - {chosen}
    line = f"memory format: {chosen} ({seconds[chosen]:.3f} s measured, {other} {seconds[other]:.3f} s)"
    if bfloat16 and seconds["bfloat16"] < seconds[chosen]:
        line += f"; bfloat16 would take {seconds['bfloat16']:.3f} s"
    return line


def input_size(settings: InferenceSettings, picture: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what goes through a model at once: the windows, or else the picture."""
    return settings.window_size or picture


def is_ordinary(model: nn.Module, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> bool:
    """Whether a model is on the CPU with plain weights of these types, and nothing hooks onto it."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return False
    return all(
        is_plain(weight) and weight.device.type == "cpu" and weight.dtype in dtypes for weight in model.parameters()
    )
