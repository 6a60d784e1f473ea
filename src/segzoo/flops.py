"""Parameters and operations of a model, counted without allocating or reading weights.

The counter is torch's own (`torch.utils.flop_counter`), which knows convolutions, matrix products and attention; this
module registers formulas for segzoo's operators. Norms, activations, pooling and resizing are not counted, as is
usual.

Two conventions are in use. One counts a multiplication and its addition as two operations (torch, papers on hardware),
the other counts the pair as one (mmcv's counter, and with it most tables of segmentation models, under the name
FLOPs). `OperationCount` has both.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from segzoo import ops  # noqa: F401  registers the operators
from segzoo.configuration_segzoo import input_channels
from segzoo.errors import SegZooError, first_line

BILINEAR_SAMPLE = 5
"""Multiply-adds for one bilinearly sampled value: one for each of the four neighbours, one for the sample's weight."""

# The device of the tensors without memory. On "cpu" some layers take a path with fewer operations, and the counts would
# describe segzoo's code instead of the architecture; "cuda" needs a build of torch with CUDA, torch 2.8 even a driver.
_DEVICE = "meta"


@dataclass(frozen=True)
class OperationCount:
    """The operations of one forward pass of one picture.

    Args:
        size: (height, width) of the picture, in pixels.
        multiply_adds: pairs of a multiplication and an addition; mmcv and most published tables call them FLOPs.
        by_operator: multiply-adds of each operator, by its name.
    """

    size: tuple[int, int]
    multiply_adds: int
    by_operator: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Multiplications and additions counted one by one."""
        return 2 * self.multiply_adds


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of weights of each part: ``total``, and each direct child of the model by name.

    Weights that are used in several places of a part count once; a child without weights is left out.
    """
    counted = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    return {"total": sum(p.numel() for p in model.parameters())} | {name: n for name, n in counted.items() if n}


def count_operations(model: nn.Module, size: Sequence[int]) -> OperationCount:
    """Count the operations of one forward pass in inference, without auxiliary heads.

    Args:
        model: a `SegZooForSemanticSegmentation` on any device, including the meta device; its weights are not read,
            and its mode is restored.
        size: height and width of the picture, in pixels.

    Raises:
        SegZooError: the model does not accept pictures of this size.
    """
    height, width = size
    channels = input_channels(model.config)
    dtype = next(model.parameters()).dtype
    try:
        with (
            _in_inference(model),
            FakeTensorMode(allow_non_fake_inputs=True),
            FlopCounterMode(display=False) as counter,
        ):
            pixels = torch.empty(1, channels, height, width, dtype=dtype, device=_DEVICE)
            torch.func.functional_call(model, _stand_ins(model), kwargs={"pixel_values": pixels})
    except SegZooError:
        raise
    except (RuntimeError, ValueError) as error:
        raise SegZooError(
            f"the model does not take pictures of {height}x{width} ({first_line(error)}); choose another --size"
        ) from error
    counts = counter.get_flop_counts()["Global"]
    by_operator = {str(operator): flops // 2 for operator, flops in counts.items()}
    return OperationCount((height, width), sum(by_operator.values()), by_operator)


def _stand_ins(model: nn.Module) -> dict[str, torch.Tensor]:
    """Stand-ins for all parameters and buffers, by name; made inside `FakeTensorMode`, they take no memory."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype, device=_DEVICE) for name, tensor in named}


@contextmanager
def _in_inference(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


# The counter passes the shapes of the tensors, and expects multiplications and additions counted one by one.


@register_flop_formula(torch.ops.segzoo.dcnv3)
def _dcnv3(input: torch.Size, offset: torch.Size, mask: torch.Size, groups: int, *_: Any, **__: Any) -> int:
    channels_of_a_group = input[-1] // groups
    return 2 * BILINEAR_SAMPLE * math.prod(mask) * channels_of_a_group


@register_flop_formula(torch.ops.segzoo.ms_deform_attn)
def _ms_deform_attn(
    value: torch.Size,
    spatial_shapes: Any,
    sampling_locations: torch.Size,
    attention_weights: torch.Size,
    *_: Any,
    **__: Any,
) -> int:
    return 2 * BILINEAR_SAMPLE * math.prod(attention_weights) * value[-1]
