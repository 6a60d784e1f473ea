"""Multi-scale deformable attention as functions over tensors: checks, memory, and the launch of the kernels."""

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from .bilinear import TRITON_DTYPES, aligned, check, compute_dtype, forward_constants, launch
from .kernels import backward_kernel, forward_kernel


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: "Sequence[tuple[int, int]]",
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of several maps for each query, weighted by ``attention_weights``.

    A location (x, y) reads its level, of height H and width W, at the pixel position (x * W - 0.5, y * H - 0.5).
    Outside the level all values are 0. A point whose position is NaN or infinite contributes 0. Pixels that are NaN or
    infinite themselves may also reach points that have no share of them.

    Args:
        value: (N, S, heads, D): the maps, row by row and level after level; S is the sum of height * width.
        spatial_shapes: (height, width) of each level, as Python integers.
        sampling_locations: (N, Q, heads, levels, points, 2), (x, y) of each point in 0..1 of its level; 0 and 1 are
            the outer edges of the outermost pixels.
        attention_weights: (N, Q, heads, levels, points), used without a softmax.

    Returns:
        (N, Q, heads * D) in the dtype of ``value``. Positions, weights and sums are at least float32, whatever the
        dtypes of the three tensors, which may differ.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    _check("ms_deform_attn_forward", value, spatial_shapes, sampling_locations, attention_weights)
    tensors = {
        "value": aligned(value),
        "locations": aligned(sampling_locations),
        "weights": attention_weights.contiguous(),
    }
    output = value.new_empty(*attention_weights.shape[:2], value.shape[2] * value.shape[3])
    if output.numel():
        constants = forward_constants(value.dtype, value.shape[3], any(width == 1 for _, width in spatial_shapes))
        _launch(forward_kernel, {**tensors, **constants, "output": output}, spatial_shapes, value.dtype)
    return output


def ms_deform_attn_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: "Sequence[tuple[int, int]]",
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> "tuple[Tensor, Tensor, Tensor]":
    """The gradients of value, locations and weights, given the gradient of :func:`ms_deform_attn_forward`'s result.

    The gradient of the value is summed by atomic additions, whose order, and so the last bits, differ from run to run.
    Sums are at least float32, also for half-precision values.

    Args:
        grad_output: gradient of the result, (N, Q, heads * D). The other arguments are those of the forward.

    Returns:
        grad_value, grad_sampling_locations and grad_attention_weights, with the shapes and dtypes of the three
        tensors.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    _check("ms_deform_attn_backward", value, spatial_shapes, sampling_locations, attention_weights, grad_output)
    value, locations, weights = value.contiguous(), aligned(sampling_locations), attention_weights.contiguous()
    dtype = compute_dtype(value.dtype, locations.dtype, weights.dtype)
    value_gradient = torch.zeros(value.shape, dtype=dtype, device=value.device)
    locations_gradient, weights_gradient = torch.empty_like(locations), torch.empty_like(weights)
    if weights.numel():
        tensors = {
            "output_gradient": grad_output.contiguous(),
            "value": value,
            "locations": locations,
            "weights": weights,
            "value_gradient": value_gradient,
            "locations_gradient": locations_gradient,
            "weights_gradient": weights_gradient,
        }
        _launch(backward_kernel, tensors, spatial_shapes, dtype, atomics=True)
    return value_gradient.to(value.dtype), locations_gradient, weights_gradient


def _launch(kernel, own: dict, spatial_shapes, moved: torch.dtype, atomics: bool = False) -> None:
    value, weights = own["value"], own["weights"]
    images, positions, heads, channels = value.shape
    levels, points = weights.shape[3:]
    rows = weights.shape[1] * heads
    largest = max(positions * heads * channels, rows * levels * points * 2, rows * channels)
    dtypes = (value.dtype, own["locations"].dtype, weights.dtype)
    arguments = {
        **kernel_constants(heads, levels, points, *dtypes, largest),
        **own,
        "codes": tuple(2 * side + 1 for shape in spatial_shapes for side in shape),
        "positions": positions,
        "rows": rows,
    }
    launch(
        kernel,
        arguments,
        rows=rows,
        images=images,
        channels=channels,
        dtype=moved,
        device=value.device,
        atomics=atomics,
    )


def kernel_constants(
    heads: int,
    levels: int,
    points: int,
    value: torch.dtype,
    locations: torch.dtype,
    weights: torch.dtype,
    largest: int = 0,
) -> dict:
    """The compile-time constants of both kernels; ``largest`` is the most numbers of one image in a tensor."""
    return {
        "HEADS": heads,
        "LEVELS": levels,
        "POINTS": points,
        "PAIRED": locations.itemsize < 8,
        "COMPUTE": TRITON_DTYPES[compute_dtype(value, locations, weights)],
        "INDEX": tl.int64 if largest >= 2**31 else tl.int32,
    }


def _check(name: str, value: Tensor, spatial_shapes, locations: Tensor, weights: Tensor, grad: "Tensor | None" = None):
    for argument, tensor, dimensions in (("value", value, 4), ("attention_weights", weights, 5)):
        if tensor.ndim != dimensions:
            raise ValueError(f"{name}: {argument} must have {dimensions} dimensions, got {tuple(tensor.shape)}")
    images, _, heads, channels = value.shape
    queries, points = weights.shape[1], weights.shape[4]
    levels = len(spatial_shapes)
    shapes = {
        "value": (value, (images, sum(height * width for height, width in spatial_shapes), heads, channels)),
        "sampling_locations": (locations, (images, queries, heads, levels, points, 2)),
        "attention_weights": (weights, (images, queries, heads, levels, points)),
    }
    if grad is not None:
        shapes["grad_output"] = (grad, (images, queries, heads * channels))
    check(name, shapes)
