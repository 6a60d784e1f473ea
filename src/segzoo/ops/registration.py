"""What both operators need around their arithmetic: dtypes, the autocast rule, kernels for GPUs."""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segzoo.ops.fusing import warn_once

# One library object for the rules that ``torch.library.custom_op`` has no place for.
_library = torch.library.Library("segzoo", "FRAGMENT")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """At least float32, whatever the tensors are."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def empty(tensor: Tensor) -> Tensor:
    """A contiguous tensor like it, whatever its strides: what a backward fills."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def autocast_sampled(sampled: Tensor) -> Tensor:
    """The tensor that is sampled, in the autocast dtype where autocast is on."""
    device = sampled.device.type
    if torch.is_autocast_enabled(device) and sampled.dtype != torch.float64:
        return sampled.to(torch.get_autocast_dtype(device))
    return sampled


def register_autocast(name: str) -> None:
    """Autocast rounds the first tensor of ``segzoo::name`` alone: ``register_autocast`` would round the positions too."""

    def rule(sampled: Tensor, *others: Any) -> Any:
        sampled = autocast_sampled(sampled)
        with torch.autocast(sampled.device.type, enabled=False):
            return getattr(torch.ops.segzoo, name)(sampled, *others)

    for key in ("AutocastCPU", "AutocastCUDA"):
        _library.impl(name, rule, key)


# Launches the forward kernel of a package over small float32 tensors on a device.
Trial = Callable[[ModuleType, torch.device], object]


def gpu_kernels(name: str, device: torch.device, trial: Trial, *, backward: bool = False) -> ModuleType | None:
    """The launch functions of a kernel package; None where Triton is not installed or the trial fails on the device, and for
    the backward, whose kernels add in any order, where PyTorch is to be deterministic.
    """
    return None if backward and torch.are_deterministic_algorithms_enabled() else _working_kernels(name, device, trial)


@functools.cache
def _working_kernels(name: str, device: torch.device, trial: Trial) -> ModuleType | None:
    """Tried once, so that no error of a later launch is taken for a missing compiler."""
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
    except Exception as error:  # Triton has no class of its own for what it needs of the system and does not find
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        warn_once(
            f"segzoo: the deformable operators run without their GPU kernels, because Triton failed here ({cause}); a C compiler "
            "such as gcc, or its path in the environment variable CC, makes them faster"
        )
        return None
    return kernels
