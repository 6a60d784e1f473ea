"""What the kernels' tests share: the device, a plain bilinear sample, tensors amid poison, and comparisons.

Each kernel has a copy, because a published kernel has to stand alone; build.py makes the copies from kernels/shared.
"""

import os

import pytest
import torch

if torch.cuda.is_available():
    DEVICE = "cuda"
elif os.environ.get("TRITON_INTERPRET") == "1":
    DEVICE = "cpu"
else:
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

# Largest difference that rounding the result to a dtype leaves, as a share of the reference's largest number.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def bilinear(maps, x, y):
    """(..., D): samples of ``maps`` (H, W, D) at x and y (...); zero outside, and where a position is not finite."""
    height, width, _ = maps.shape
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    left, upper = x.detach().floor(), y.detach().floor()
    total = 0
    for step_x in (0, 1):
        for step_y in (0, 1):
            column, row = left + step_x, upper + step_y
            weight = (x - left if step_x else 1 - x + left) * (y - upper if step_y else 1 - y + upper)
            here = inside & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixels = maps[row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
            total = total + pixels * (weight * here)[..., None]
    return total


def between_poison(tensor, dtype):
    """The tensor on the device, in memory with NaN before and after it, so that reading out of bounds shows."""
    margin = 64
    memory = torch.full((tensor.numel() + 2 * margin,), float("nan"), dtype=dtype, device=DEVICE)
    inner = memory[margin : margin + tensor.numel()].view(tensor.shape)
    inner.copy_(tensor)
    return inner


def spoil(positions):
    """Replace some positions, in place, by ones that are far off, infinite or NaN."""
    flat = positions.view(-1)
    flat[3::29] = 1e30
    flat[5::31] = -float("inf")
    flat[::17] = float("nan")
    flat[7::37] = -3e9


def assert_close(names, results, expected, tolerances):
    """Assert that results differ from what is expected by no more than a share of the largest number expected."""
    for name, result, reference, tolerance in zip(names, results, expected, tolerances, strict=True):
        assert result.shape == reference.shape, name
        reference = reference.detach()
        error = (result.double().cpu() - reference).abs().max().item()
        assert error <= tolerance * max(reference.abs().max().item(), 1e-3), (name, error)
