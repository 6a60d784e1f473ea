"""What both operators need around their arithmetic: dtypes, rules of autocast and derivatives, the choice of kernels for GPUs."""

import functools
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segzoo.compat import is_transformed
from segzoo.errors import SegZooError
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
    # The meta device cannot be asked.
    if device != "meta" and torch.is_autocast_enabled(device) and sampled.dtype != torch.float64:
        return sampled.to(torch.get_autocast_dtype(device))
    return sampled


def call(name: str, *arguments: Any) -> Any:
    """``segzoo::name`` of the arguments, also where transforms of torch.func are active or derivatives in forward mode."""
    return _Operator.apply(name, *arguments) if is_transformed() else getattr(torch.ops.segzoo, name)(*arguments)


def register_rules(name: str) -> None:
    """Give ``segzoo::name`` its derivatives, and let it and its backward compute as outside of autocast.

    ``segzoo::name_backward`` takes the gradient of the result and the operator's arguments, and returns the gradients of
    those that are tensors. It may be called inside autocast too, whose own rules would round factors of products.
    """
    for operator in (name, f"{name}_backward"):
        torch.library.register_autograd(
            f"segzoo::{operator}", partial(_gradients, operator), setup_context=_save_for_backward
        )
        for key in ("AutocastCPU", "AutocastCUDA", "AutocastXPU", "AutocastMPS"):
            _library.impl(operator, partial(_without_autocast, operator), key)


def _without_autocast(operator: str, first: Tensor, *others: Any) -> Any:
    with torch.autocast(first.device.type, enabled=False):
        return getattr(torch.ops.segzoo, operator)(first, *others)


def _save_for_backward(ctx: Any, inputs: tuple, output: Any) -> None:
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]


def _gradients(operator: str, ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of an operator's arguments, None for those that are no tensors."""
    if operator.endswith("_backward"):
        raise SegZooError(f"{operator.removesuffix('_backward')} has no second derivatives; take first ones alone")
    tensors = iter(ctx.saved_tensors)
    arguments = [next(tensors) if x is None else x for x in ctx.others]
    found = iter(call(f"{operator}_backward", *gradients, *arguments))
    return tuple(next(found) if x is None else None for x in ctx.others)


class _Operator(torch.autograd.Function):
    """An operator inside transforms of torch.func, which cannot use the gradients of ``torch.library.custom_op``, and of tensors
    with tangents, which that would leave out in silence.
    """

    @staticmethod
    def forward(name: str, *arguments: Any) -> Any:
        return getattr(torch.ops.segzoo, name)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.name, *arguments = inputs
        _save_for_backward(ctx, tuple(arguments), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx.name, ctx, *gradients)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Any, Any]:
        # One call a sample, as torch does with operators that have no rule.
        def sample(number: int) -> Iterator[Any]:
            for x, dim in zip(arguments, in_dims, strict=True):
                yield x if dim is None or not isinstance(x, Tensor) else x.select(dim, number)

        results = [_Operator.apply(*sample(number)) for number in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise SegZooError(
            f"{ctx.name} has no derivatives in forward mode (torch.func.jvp and jacfwd, torch.autograd.forward_ad); take them in "
            "reverse mode: torch.func.vjp or jacrev, torch.autograd.grad"
        )


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
