"""What both operators need around their arithmetic: dtypes, the autocast rule, the choice of kernels for GPUs."""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segzoo.ops.fusing import warn_once

# One library object for the rules that ``torch.library.custom_op`` cannot express.
_library = torch.library.Library("segzoo", "FRAGMENT")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: float32, or float64 if one of the tensors has it."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def empty(tensor: Tensor) -> Tensor:
    """An uninitialised, contiguous tensor of the same shape, dtype and device, for a backward to fill."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def autocast_sampled(sampled: Tensor) -> Tensor:
    """The tensor that is sampled, cast to the autocast dtype where autocast is on; float64 stays."""
    device = sampled.device.type
    if torch.is_autocast_enabled(device) and sampled.dtype != torch.float64:
        return sampled.to(torch.get_autocast_dtype(device))
    return sampled


def register_autocast(name: str) -> None:
    """Make autocast round the first tensor of ``segzoo::name`` alone; torch's own rule would round positions too."""

    def rule(sampled: Tensor, *others: Any) -> Any:
        sampled = autocast_sampled(sampled)
        with torch.autocast(sampled.device.type, enabled=False):
            return getattr(torch.ops.segzoo, name)(sampled, *others)

    for key in ("AutocastCPU", "AutocastCUDA"):
        _library.impl(name, rule, key)


# Launches the forward kernel of a package over small float32 tensors on a device.
Trial = Callable[[ModuleType, torch.device], object]


def gpu_kernels(name: str, device: torch.device, trial: Trial, *, backward: bool = False) -> ModuleType | None:
    """The launch functions of a kernel package, or None where PyTorch's own operators must do.

    That is where Triton is not installed, where the trial fails on the device, and, since the kernels of the backward
    add in any order, for the backward where PyTorch is set to be deterministic.

    Args:
        name: name of the package under ``segzoo._kernels``.
        device: the GPU.
        trial: launches the forward kernel once.
        backward: whether the backward is to be launched.
    """
    return None if backward and torch.are_deterministic_algorithms_enabled() else _working_kernels(name, device, trial)


@functools.cache
def _working_kernels(name: str, device: torch.device, trial: Trial) -> ModuleType | None:
    """The package, if a trial works; tried once, so that no later error is mistaken for a missing compiler."""
    try:
        kernels = importlib.import_module(f"segzoo._kernels.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] not in ("triton", "segzoo"):
            raise
        return None
    try:
        trial(kernels, device)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # of the device, not of Triton
        raise
    except Exception as error:  # Triton has no exception class of its own for what it does not find on the system
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        warn_once(
            f"segzoo: the deformable operators run without their GPU kernels, because Triton failed here ({cause}); a C compiler "
            "such as gcc, or its path in the environment variable CC, makes them faster"
        )
        return None
    return kernels
