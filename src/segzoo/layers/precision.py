"""Arithmetic that is too delicate for half precision."""

import contextlib

import torch
from torch import Tensor


def in_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float32 at least; those that are already come back themselves."""
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which products keep the dtype of their tensors, also inside ``torch.autocast``."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()  # exports would make the other one a part of the graph
