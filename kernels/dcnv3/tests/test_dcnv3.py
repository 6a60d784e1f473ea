"""DCNv3 against its formula in float64, forward and backward, on a GPU or in Triton's interpreter.

python -m pytest tests                       # on a GPU, with the kernel installed or on PYTHONPATH
TRITON_INTERPRET=1 python -m pytest tests    # anywhere
"""

import itertools

import dcnv3
import pytest
import torch

from .support import DEVICE, TOLERANCE, assert_close, between_poison, bilinear, spoil

pytestmark = pytest.mark.kernels_ci
NAMES = ("output", "grad_input", "grad_offset", "grad_mask")


def formula(
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
    """DCNv3 computed point by point, from the formula in its documentation."""
    images, rows, columns, _ = offset.shape
    channels = input.shape[3] // groups
    points = [(kx, ky) for kx, ky in itertools.product(range(kernel_size), repeat=2)]
    if remove_center:
        points.remove((kernel_size // 2, kernel_size // 2))
    offset = offset.view(images, rows, columns, groups, len(points), 2)
    weight = mask.view(images, rows, columns, groups, len(points))
    weight = weight.softmax(-1) if softmax else weight
    reach = dilation * (kernel_size - 1) // 2
    row = torch.arange(rows, dtype=torch.float64).view(-1, 1)
    column = torch.arange(columns, dtype=torch.float64)
    output = []
    for image, group in itertools.product(range(images), range(groups)):
        maps = input[image, :, :, group * channels : (group + 1) * channels]
        total = torch.zeros(rows, columns, channels, dtype=torch.float64)
        for point, (kx, ky) in enumerate(points):
            shift_x, shift_y = offset[image, :, :, group, point].unbind(-1)
            x = column * stride - padding + reach + offset_scale * (kx * dilation - reach + shift_x)
            y = row * stride - padding + reach + offset_scale * (ky * dilation - reach + shift_y)
            total = total + bilinear(maps, x, y) * weight[image, :, :, group, point, None]
        output.append(total)
    output = torch.stack(output).view(images, groups, rows, columns, channels)
    return output.permute(0, 2, 3, 1, 4).reshape(images, rows, columns, -1)


def make(images, height, width, groups, channels, dtypes, **options):
    """Input, offset, mask and gradient of the output, in float64, with numbers that the dtypes represent exactly."""
    kernel, stride = options.get("kernel_size", 3), options.get("stride", 1)
    points = kernel**2 - options.get("remove_center", False)
    span = options.get("dilation", 1) * (kernel - 1) + 1
    rows, columns = ((side + 2 * options.get("padding", 1) - span) // stride + 1 for side in (height, width))
    random = torch.Generator().manual_seed(images + height + channels)
    shapes = (
        (images, height, width, groups * channels),
        (images, rows, columns, groups * points * 2),
        (images, rows, columns, groups * points),
        (images, rows, columns, groups * channels),
    )
    tensors = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    tensors[1] *= 1.5
    spoil(tensors[1])
    return [tensor.to(dtype).double() for tensor, dtype in zip(tensors, (*dtypes, dtypes[0]), strict=True)]


F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
CASES = {
    "plain": ((2, 7, 6, 2, 16), F32, {}),
    "softmax": ((1, 16, 16, 2, 16), F32, {"softmax": True}),
    "float64": ((2, 5, 6, 3, 20), F64, {"softmax": True, "offset_scale": 0.7}),
    "half": ((2, 7, 6, 2, 16), F16, {"softmax": True, "stride": 2}),
    "bfloat16": ((1, 9, 8, 3, 32), BF16, {"softmax": True}),
    "half everywhere": ((1, 6, 5, 2, 16), (F16, F16, F16), {"softmax": True}),
    "mixed": ((1, 6, 5, 2, 8), (F32, BF16, F16), {"softmax": True}),
    "float64 offsets": ((1, 5, 5, 1, 8), (F32, F64, F32), {}),
    "8 channels": ((3, 6, 5, 4, 8), F32, {"remove_center": True, "softmax": True}),
    "10 channels": ((2, 6, 5, 3, 10), F32, {"stride": 2, "padding": 0}),
    "12 channels": ((1, 6, 5, 3, 12), BF16, {"dilation": 2, "padding": 2}),
    "15 channels": ((1, 6, 5, 3, 15), BF16, {"softmax": True}),
    "2 channels": ((1, 6, 5, 3, 2), BF16, {}),
    "1 channel": ((1, 5, 4, 3, 1), F32, {}),
    "one pixel": ((2, 1, 1, 2, 16), F32, {"softmax": True}),
    "one column": ((2, 5, 1, 2, 16), F32, {"softmax": True}),
    "one column of bfloat16": ((2, 5, 1, 2, 16), (BF16, BF16, BF16), {"softmax": True}),
    "one row": ((2, 1, 6, 2, 16), F16, {}),
    "5x5": ((1, 7, 8, 1, 8), F32, {"kernel_size": 5, "padding": 2, "softmax": True, "remove_center": True}),
    "2x2, no padding": ((1, 5, 6, 2, 4), F32, {"kernel_size": 2, "padding": 0}),
    "1x1": ((1, 5, 6, 2, 4), F32, {"kernel_size": 1, "padding": 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(case):
    shape, dtypes, options = CASES[case]
    dtypes = dtypes if isinstance(dtypes, tuple) else (dtypes, *(F64 if dtypes == F64 else F32,) * 2)
    *exact, given = make(*shape, dtypes, **options)
    options = {"groups": shape[3], **options}
    exact = [tensor.requires_grad_() for tensor in exact]
    expected = formula(*exact, **options)
    gradients = torch.autograd.grad(expected, exact, given)

    tensors = [between_poison(tensor.detach(), dtype) for tensor, dtype in zip(exact, dtypes, strict=True)]
    output = dcnv3.dcnv3_forward(*tensors, **options)
    results = dcnv3.dcnv3_backward(between_poison(given, dtypes[0]), *tensors, **options)
    assert [tensor.dtype for tensor in (output, *results)] == [dtypes[0], *dtypes]
    tolerances = [TOLERANCE[dtype] for dtype in (dtypes[0], *dtypes)]
    assert_close(NAMES, (output, *results), (expected, *gradients), tolerances)


def test_takes_any_strides():
    input, offset, mask, given = (tensor.to(DEVICE, F32) for tensor in make(2, 6, 5, 2, 8, (F32, F32, F32)))
    strided = [tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for tensor in (input, offset, mask, given)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.equal(dcnv3.dcnv3_forward(*strided[:3], groups=2), dcnv3.dcnv3_forward(input, offset, mask, groups=2))
    results = dcnv3.dcnv3_backward(strided[3], *strided[:3], groups=2)
    for result, expected in zip(results, dcnv3.dcnv3_backward(given, input, offset, mask, groups=2), strict=True):
        torch.testing.assert_close(result, expected)


def test_takes_an_input_that_begins_anywhere():
    """Two bfloat16 numbers are loaded at once, which memory that begins between two of them does not allow."""
    input, offset, mask, _ = (tensor.to(DEVICE, BF16) for tensor in make(2, 6, 5, 2, 8, (BF16,) * 3))
    shifted = torch.cat([input.new_zeros(1), input.flatten()])[1:].view(input.shape)
    assert shifted.data_ptr() % (2 * shifted.itemsize)
    assert torch.equal(
        dcnv3.dcnv3_forward(shifted, offset, mask, groups=2), dcnv3.dcnv3_forward(input, offset, mask, groups=2)
    )


@pytest.mark.parametrize("dtype", [F32, F16])
def test_takes_offsets_that_begin_anywhere(dtype):
    """Two offsets are loaded at once, which memory that begins between two of them does not allow."""
    input, offset, mask, given = (tensor.to(DEVICE, dtype) for tensor in make(2, 6, 5, 2, 8, (dtype,) * 3))
    shifted = torch.cat([offset.new_zeros(1), offset.flatten()])[1:].view(offset.shape)
    assert shifted.data_ptr() % (2 * shifted.itemsize)
    assert torch.equal(
        dcnv3.dcnv3_forward(input, shifted, mask, groups=2), dcnv3.dcnv3_forward(input, offset, mask, groups=2)
    )
    results = dcnv3.dcnv3_backward(given, input, shifted, mask, groups=2)
    for result, expected in zip(results, dcnv3.dcnv3_backward(given, input, offset, mask, groups=2), strict=True):
        torch.testing.assert_close(result, expected)


def test_no_images():
    input, offset, mask, given = (tensor.to(DEVICE, F32) for tensor in make(0, 6, 5, 2, 8, (F32, F32, F32)))
    assert dcnv3.dcnv3_forward(input, offset, mask, groups=2).shape == (0, 6, 5, 16)
    results = dcnv3.dcnv3_backward(given, input, offset, mask, groups=2)
    assert [result.shape for result in results] == [input.shape, offset.shape, mask.shape]


def test_wrong_shapes_say_which():
    input, offset, mask, given = (tensor.to(DEVICE, F32) for tensor in make(1, 6, 5, 2, 8, (F32, F32, F32)))
    with pytest.raises(ValueError, match="offset must be"):
        dcnv3.dcnv3_forward(input, offset[..., 1:], mask, groups=2)
    with pytest.raises(ValueError, match="mask must be"):
        dcnv3.dcnv3_forward(input, offset, mask[:, 1:], groups=2)
    with pytest.raises(ValueError, match="grad_output must be"):
        dcnv3.dcnv3_backward(given[..., 1:], input, offset, mask, groups=2)
    with pytest.raises(ValueError, match="do not divide"):
        dcnv3.dcnv3_forward(input, offset, mask, groups=3)
    with pytest.raises(ValueError, match="floating-point"):
        dcnv3.dcnv3_forward(input, offset.long(), mask, groups=2)
