"""DCNv3 as functions over tensors: checks, memory, and the launch of the kernels."""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .bilinear import TRITON_DTYPES, aligned, check, compute_dtype, forward_constants, launch
from .kernels import backward_kernel, forward_kernel


class Options(NamedTuple):
    """The options of `dcnv3_forward`, in its order."""

    groups: int
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    offset_scale: float
    remove_center: bool
    softmax: bool

    @property
    def points(self) -> int:
        """Number of sampling points of a group."""
        return self.kernel_size**2 - bool(self.remove_center)

    def output_size(self, size: int) -> int:
        """Height or width of the output for a height or width of the input; below 1 where the kernel does not fit."""
        return (size + 2 * self.padding - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1


def dcnv3_forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    *,
    groups: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """Sum bilinear samples of the input around each position, weighted by ``mask``.

    With reach = dilation * (kernel_size - 1) // 2, point p = kx * kernel_size + ky of a group reads, for the output
    position (row, column), the input at

        x = column * stride - padding + reach + offset_scale * (kx * dilation - reach + offset[..., 0])
        y = row    * stride - padding + reach + offset_scale * (ky * dilation - reach + offset[..., 1])

    in pixels. Outside the input all values are 0. A point whose position is NaN or infinite contributes 0. Pixels that
    are NaN or infinite themselves may also reach points that have no share of them.

    Args:
        input: (N, H, W, C), channels last; C is a multiple of ``groups``.
        offset: (N, Ho, Wo, groups * points * 2), (x, y) of each point in pixels; points = kernel_size**2, less one
            with ``remove_center``; Ho and Wo are those of an ordinary convolution.
        mask: (N, Ho, Wo, groups * points), the weights of the points.
        groups: each group of C / groups channels has its own points.
        kernel_size: side of the kernel; odd and at least 3 where ``remove_center`` is set.
        stride, padding, dilation: as in an ordinary convolution, in pixels.
        offset_scale: factor on the kernel's grid and on the offsets.
        remove_center: leave out the kernel's central point.
        softmax: ``mask`` holds logits; their softmax over the points of a group are the weights.

    Returns:
        (N, Ho, Wo, C) in the input's dtype. Positions, weights and sums are at least float32, whatever the dtypes of
        the three tensors, which may differ.

    Raises:
        ValueError: shapes, dtypes, devices or options do not fit.
    """
    options = Options(
        groups, kernel_size, stride, padding, dilation, float(offset_scale), bool(remove_center), bool(softmax)
    )
    _check("dcnv3_forward", input, offset, mask, options)
    input, offset, mask = aligned(input), aligned(offset), mask.contiguous()
    output = input.new_empty(*offset.shape[:3], input.shape[3])
    if output.numel():
        tensors = {"input": input, "offset": offset, "mask": mask, "output": output}
        constants = forward_constants(input.dtype, input.shape[3] // groups, input.shape[2] == 1)
        _launch(forward_kernel, {**tensors, **constants}, options, input.dtype)
    return output


def dcnv3_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    *,
    groups: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> "tuple[Tensor, Tensor, Tensor]":
    """The gradients of input, offset and mask, given the gradient of :func:`dcnv3_forward`'s result.

    The gradient of the input is summed by atomic additions, whose order, and so the last bits, differ from run to run.
    Sums are at least float32, also for half-precision inputs.

    Args:
        grad_output: gradient of the result, (N, Ho, Wo, C). The other arguments are those of the forward.

    Returns:
        grad_input, grad_offset and grad_mask, with the shapes and dtypes of input, offset and mask.

    Raises:
        ValueError: shapes, dtypes, devices or options do not fit.
    """
    options = Options(
        groups, kernel_size, stride, padding, dilation, float(offset_scale), bool(remove_center), bool(softmax)
    )
    _check("dcnv3_backward", input, offset, mask, options, grad_output)
    input, offset, mask = input.contiguous(), aligned(offset), mask.contiguous()
    input_gradient = torch.zeros(
        input.shape, dtype=compute_dtype(input.dtype, offset.dtype, mask.dtype), device=input.device
    )
    offset_gradient, mask_gradient = torch.empty_like(offset), torch.empty_like(mask)
    if grad_output.numel():
        tensors = {
            "output_gradient": grad_output.contiguous(),
            "input": input,
            "offset": offset,
            "mask": mask,
            "input_gradient": input_gradient,
            "offset_gradient": offset_gradient,
            "mask_gradient": mask_gradient,
        }
        _launch(backward_kernel, tensors, options, input_gradient.dtype, atomics=True)
    return input_gradient.to(input.dtype), offset_gradient, mask_gradient


def _launch(kernel, own: dict, options: Options, moved: torch.dtype, atomics: bool = False) -> None:
    input, offset = own["input"], own["offset"]
    images, height, width, channels = input.shape
    rows = offset.shape[1] * offset.shape[2] * options.groups
    largest = max(height * width * channels, rows * options.points * 2, rows * channels // options.groups)
    arguments = kernel_constants(options, input.dtype, offset.dtype, own["mask"].dtype, largest)
    arguments |= {**own, "height": height, "width": width, "columns": offset.shape[2], "rows": rows}
    launch(
        kernel,
        arguments,
        rows=rows,
        images=images,
        channels=channels // options.groups,
        dtype=moved,
        device=input.device,
        atomics=atomics,
    )


def kernel_constants(
    options: Options, input: torch.dtype, offset: torch.dtype, mask: torch.dtype, largest: int = 0
) -> dict:
    """The compile-time constants of both kernels; ``largest`` is the most numbers of one image in a tensor."""
    return {
        "G": options.groups,
        "KERNEL": options.kernel_size,
        "STRIDE": options.stride,
        "PADDING": options.padding,
        "DILATION": options.dilation,
        "SCALE": options.offset_scale,
        "REMOVE_CENTER": options.remove_center,
        "SOFTMAX": options.softmax,
        "PAIRED": offset.itemsize < 8,
        "COMPUTE": TRITON_DTYPES[compute_dtype(input, offset, mask)],
        "INDEX": tl.int64 if largest >= 2**31 else tl.int32,
    }


def _check(
    name: str, input: Tensor, offset: Tensor, mask: Tensor, options: Options, grad: "Tensor | None" = None
) -> None:
    if input.ndim != 4:
        raise ValueError(f"{name}: input must be (N, H, W, C), got {tuple(input.shape)}")
    if min(options.groups, options.kernel_size, options.stride, options.dilation) < 1 or options.padding < 0:
        raise ValueError(f"{name}: groups, kernel_size, stride and dilation must be at least 1, padding at least 0")
    if options.remove_center and (options.kernel_size % 2 == 0 or options.kernel_size == 1):
        raise ValueError(f"{name}: remove_center needs an odd kernel_size of 3 or more, got {options.kernel_size}")
    images, height, width, channels = input.shape
    if channels < options.groups or channels % options.groups:
        raise ValueError(f"{name}: {channels} channels do not divide into groups={options.groups}")
    rows, columns = options.output_size(height), options.output_size(width)
    if min(rows, columns) < 1:
        raise ValueError(f"{name}: the padded input of {height}x{width} is smaller than the kernel")
    per_position = options.groups * options.points
    shapes = {
        "input": (input, input.shape),
        "offset": (offset, (images, rows, columns, 2 * per_position)),
        "mask": (mask, (images, rows, columns, per_position)),
    }
    if grad is not None:
        shapes["grad_output"] = (grad, (images, rows, columns, channels))
    check(name, shapes)
