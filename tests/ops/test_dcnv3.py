"""DCNv3 against recorded numbers of the original operator and a definition in loops, and its edge cases."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from segzoo.errors import SegZooError
from segzoo.ops import bilinear_bags, dcnv3

RECORD = Path(__file__).parent / "records" / "dcnv3"
CASES = json.loads(RECORD.with_suffix(".json").read_text())
# Which entries of the flattened outputs and gradients were kept.
OUTPUT_STEP, GRADIENT_STEP = 2, 9
NAMES = ("input", "offset", "mask")


def make(batch=1, height=6, width=7, groups=2, channels=4, dtype=torch.float64, spread=1.5, seed=0, **options):
    """Random (input, offset, mask) that fit the options."""
    kernel, stride = options.get("kernel_size", 3), options.get("stride", 1)
    padding, dilation = options.get("padding", 1), options.get("dilation", 1)
    points = kernel**2 - options.get("remove_center", False)
    rows, columns = ((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (height, width))
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return (
        draw(batch, height, width, groups * channels).to(dtype),
        (draw(batch, rows, columns, groups * points * 2) * spread).to(dtype),
        draw(batch, rows, columns, groups * points).to(dtype),
    )


def by_definition(
    input,
    offset,
    mask,
    groups,
    kernel_size=3,
    stride=1,
    padding=1,
    dilation=1,
    offset_scale=1.0,
    remove_center=False,
    softmax=False,
):
    """The docstring of `dcnv3`, point by point, in Python floats."""
    batch, height, width, channels = input.shape
    reach = dilation * (kernel_size - 1) // 2
    grid = [(kx, ky) for kx in range(kernel_size) for ky in range(kernel_size)]
    if remove_center:
        grid.remove((kernel_size // 2, kernel_size // 2))
    maps = input.double().reshape(batch, height, width, groups, channels // groups)
    offset = offset.double().reshape(*offset.shape[:3], groups, len(grid), 2)
    mask = mask.double().reshape(*mask.shape[:3], groups, len(grid))
    mask = mask.softmax(-1) if softmax else mask
    output = torch.zeros(*offset.shape[:4], channels // groups, dtype=torch.float64)
    for n, row, column, g in ((n, *rest) for n in range(batch) for rest in _positions(offset.shape[1:4])):
        for p, (kx, ky) in enumerate(grid):
            dx, dy = offset[n, row, column, g, p].tolist()
            x = column * stride - padding + reach + offset_scale * (kx * dilation - reach + dx)
            y = row * stride - padding + reach + offset_scale * (ky * dilation - reach + dy)
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            left, top = math.floor(x), math.floor(y)
            for xi, yi in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                if 0 <= xi < width and 0 <= yi < height:
                    share = (1 - abs(x - xi)) * (1 - abs(y - yi))
                    output[n, row, column, g] += mask[n, row, column, g, p] * share * maps[n, yi, xi, g]
    return output.flatten(-2)


def _positions(shape):
    return ((i, j, k) for i in range(shape[0]) for j in range(shape[1]) for k in range(shape[2]))


def gradients(tensors, weights=None, **options):
    """Output and the gradients of (input, offset, mask)."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    output = dcnv3(*tensors, **options)
    weights = torch.ones_like(output) if weights is None else weights.to(output.dtype)
    return output.detach(), torch.autograd.grad(output, tensors, weights)


@pytest.mark.parametrize("name", CASES)
def test_recorded_numbers_of_the_original(name):
    record = {k.removeprefix(f"{name}."): v.double() for k, v in load_file(f"{RECORD}.safetensors").items()}
    record = {k: v for k, v in record.items() if "." not in k}
    output, found = gradients([record[k] for k in NAMES], record["output_gradient"], **CASES[name])
    assert torch.allclose(output.reshape(-1)[::OUTPUT_STEP], record["output"], rtol=0, atol=1e-12)
    for key, gradient in zip(NAMES, found, strict=True):
        expected = record[f"{key}_gradient"]
        assert torch.allclose(gradient.reshape(-1)[::GRADIENT_STEP], expected, rtol=0, atol=1e-12), key


shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "height": st.integers(1, 6),
        "width": st.integers(1, 6),
        "groups": st.integers(1, 3),
        "channels": st.integers(1, 3),
        "spread": st.sampled_from([0.0, 0.7, 4.0]),
        "seed": st.integers(0, 999),
    }
)
kernels = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([1, 2, 3, 5]),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "dilation": st.integers(1, 2),
        "offset_scale": st.sampled_from([1.0, 0.5, 2.0]),
        "remove_center": st.booleans(),
        "softmax": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, options=kernels)
def test_definition(shape, options):
    kernel = options["kernel_size"]
    options["remove_center"] &= kernel % 2 == 1 and kernel > 1
    too_small = min(shape["height"], shape["width"]) + 2 * options["padding"] < options["dilation"] * (kernel - 1) + 1
    if too_small:
        options |= {"padding": options["dilation"] * (kernel - 1)}
    tensors = make(**shape, **options)
    expected = by_definition(*tensors, shape["groups"], **options)
    found = dcnv3(*tensors, groups=shape["groups"], **options)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {"softmax": True},
        {"softmax": False, "stride": 2, "remove_center": True, "offset_scale": 1.5},
        {"softmax": True, "kernel_size": 5, "padding": 0, "dilation": 1},
    ],
)
def test_gradients_are_those_of_finite_differences(options):
    tensors = [t.requires_grad_() for t in make(height=5, width=6, channels=2, **options)]
    assert torch.autograd.gradcheck(lambda *t: dcnv3(*t, groups=2, **options), tensors, eps=1e-6, atol=1e-6)


def test_gradients_of_some_tensors_only():
    input, offset, mask = make()
    _, expected = gradients((input, offset, mask), groups=2)
    input.requires_grad_()
    (found,) = torch.autograd.grad(dcnv3(input, offset, mask, groups=2).sum(), [input])
    assert torch.equal(found, expected[0])


def test_work_in_strips_changes_nothing(monkeypatch):
    tensors = make(batch=2, height=9, width=8)
    output, expected = gradients(tensors, groups=2, softmax=True)
    monkeypatch.setattr(bilinear_bags, "_CPU_POINTS", 1)
    monkeypatch.setattr(bilinear_bags, "_CPU_GATHERED", 1)
    strips, found = gradients(tensors, groups=2, softmax=True)
    assert torch.allclose(strips, output, rtol=0, atol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_lower_precision(dtype, tolerance):
    """Only the inputs and the results are rounded: what lies between is float32."""
    tensors = make(batch=2, height=9, width=8, channels=8, dtype=dtype)
    weights = torch.randn(2, 9, 8, 16).to(dtype)
    output, found = gradients(tensors, weights, groups=2, softmax=True)
    expected_output, expected = gradients([t.double() for t in tensors], weights, groups=2, softmax=True)
    assert output.dtype == dtype and all(g.dtype == dtype for g in found)
    for a, b in zip((output, *found), (expected_output, *expected), strict=True):
        assert float((a.double() - b).abs().max()) <= tolerance * float(b.abs().max())


def test_dtypes_may_differ():
    input, offset, mask = make(dtype=torch.float32)
    output = dcnv3(input.half(), offset, mask.bfloat16(), groups=2)
    expected = dcnv3(input.half().double(), offset.double(), mask.bfloat16().double(), groups=2)
    assert output.dtype == torch.float16
    assert torch.allclose(output.double(), expected, rtol=2e-3, atol=2e-3)


def test_autocast_casts_the_input_and_keeps_positions():
    input, offset, mask = make(dtype=torch.float32, height=40, width=40)
    exact = dcnv3(input.bfloat16(), offset, mask, groups=2)
    with torch.autocast("cpu", torch.bfloat16):
        output = dcnv3(input, offset, mask, groups=2)
    assert output.dtype == torch.bfloat16 and torch.equal(output, exact)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9])
def test_far_and_broken_offsets(value):
    """Such a point contributes nothing; the other points, and all gradients, stay what they are without it."""
    input, offset, mask = make(dtype=torch.float32)
    offset[0, 2, 3, 0] = value  # x of the first point of the first group
    without = mask.clone()
    without[0, 2, 3, 0] = 0
    neutral = offset.clone()
    neutral[0, 2, 3, 0] = 0.25
    output, found = gradients((input, offset, mask), groups=2)
    expected_output, expected = gradients((input, neutral, without), groups=2)
    assert torch.allclose(output, expected_output, atol=1e-6)
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.equal(found[1][0, 2, 3, :2], torch.zeros(2)) and found[2][0, 2, 3, 0] == 0
    assert all(torch.isfinite(gradient).all() for gradient in found)


def test_everything_outside_gives_zeros():
    input, offset, mask = make(padding=3)
    output, found = gradients((input, offset + 100, mask), groups=2, padding=3)
    assert not output.any() and not any(gradient.any() for gradient in found)


def test_borders_are_exact():
    """Samples a fraction of a pixel outside still reach the outermost pixels."""
    input = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for x, expected in ((0.0, 1.0), (-0.25, 0.75), (0.75, 0.25), (-1.0, 0.0), (1.0, 0.0), (-1.5, 0.0), (1.5, 0.0)):
        offset = torch.tensor([x, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
        mask = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        assert float(dcnv3(input, offset, mask, groups=1, kernel_size=1, padding=0)) == expected


def test_zero_offsets_and_equal_weights_are_an_average():
    input = torch.randn(2, 8, 9, 6)
    output = dcnv3(input, torch.zeros(2, 8, 9, 54), torch.zeros(2, 8, 9, 27), groups=3, softmax=True)
    expected = torch.nn.functional.avg_pool2d(input.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    assert torch.allclose(output, expected, atol=1e-6)


def test_large_logits_do_not_overflow():
    input, offset, mask = make(dtype=torch.float32)
    output = dcnv3(input, offset, mask * 1000, groups=2, softmax=True)
    assert torch.isfinite(output).all()


def test_tensors_in_other_memory_layouts():
    tensors = make(batch=2)
    output, expected = gradients(tensors, groups=2)
    strided = [t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for t in tensors]
    found_output, found = gradients(strided, groups=2)
    assert torch.equal(found_output, output)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_empty_batch():
    output, found = gradients([t[:0] for t in make()], groups=2)
    assert output.shape == (0, 6, 7, 8) and [g.shape[0] for g in found] == [0, 0, 0]


def test_inputs_are_left_alone():
    tensors = make()
    copies = [t.clone() for t in tensors]
    gradients(tensors, groups=2, softmax=True)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_operator_is_registered_as_pytorch_asks(fused):
    tensors = [t.requires_grad_() for t in make(dtype=torch.float32, height=4, width=4)]
    torch.library.opcheck(torch.ops.segzoo.dcnv3.default, (*tensors, 2, 3, 1, 1, 1, 1.0, False, True, fused))


def test_fake_tensors_have_the_right_shapes():
    tensors = make(height=7, width=9, stride=2, dtype=torch.float16)
    output = dcnv3(*(t.to("meta") for t in tensors), groups=2, stride=2)
    assert output.shape == (1, 4, 5, 8) and output.dtype == torch.float16 and output.device.type == "meta"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: {"input": t["input"][0]}, "input must have 4 dimensions"),
        (lambda t: {"mask": t["mask"].long()}, "mask must be floating-point"),
        (lambda t: {"offset": t["offset"].to("meta")}, "offset is on meta but input on cpu"),
        (lambda t: {"groups": 3}, "8 channels, which do not divide into groups=3"),
        (lambda t: {"groups": 0}, "groups=0"),
        (lambda t: {"stride": 0}, "stride=0"),
        (lambda t: {"padding": -1}, "padding=-1"),
        (lambda t: {"remove_center": True, "kernel_size": 2}, "remove_center needs an odd kernel_size"),
        (lambda t: {"kernel_size": 9, "padding": 0}, "smaller than the kernel"),
        (lambda t: {"stride": 2}, r"offset must be \(1, 3, 4, 36\)"),
        (lambda t: {"offset": t["mask"]}, r"offset must be \(1, 6, 7, 36\) .* got \(1, 6, 7, 18\)"),
        (lambda t: {"mask": t["mask"][..., :-1]}, r"mask must be \(1, 6, 7, 18\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    arguments = dict(zip(NAMES, make(), strict=True)) | {"groups": 2}
    with pytest.raises(SegZooError, match=words):
        dcnv3(**(arguments | change(arguments)))
