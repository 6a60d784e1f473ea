"""What both operators need around their arithmetic: dtypes, the autocast rule, kernels for GPUs."""

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

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

    def rule(sampled, *others):
        sampled = autocast_sampled(sampled)
        with torch.autocast(sampled.device.type, enabled=False):
            return getattr(torch.ops.segzoo, name)(sampled, *others)

    for key in ("AutocastCPU", "AutocastCUDA"):
        _library.impl(name, rule, key)


def gpu_kernels(name: str, *, backward: bool = False) -> ModuleType | None:
    """The launch functions of a kernel package; None where Triton is not installed, and for the backward, whose kernels add in
    any order, where PyTorch is to be deterministic.
    """
    return None if backward and torch.are_deterministic_algorithms_enabled() else _import_kernels(name)


@functools.cache
def _import_kernels(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"segzoo._kernels.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] not in ("triton", "segzoo"):
            raise
        return None
