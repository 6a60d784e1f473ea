"""Multi-scale deformable attention against its formula in float64, on a GPU or in Triton's interpreter.

python -m pytest tests                       # on a GPU, with the kernel installed or on PYTHONPATH
TRITON_INTERPRET=1 python -m pytest tests    # anywhere
"""

import itertools

import ms_deform_attn
import pytest
import torch

from .support import DEVICE, TOLERANCE, assert_close, between_poison, bilinear, spoil

pytestmark = pytest.mark.kernels_ci
NAMES = ("output", "grad_value", "grad_sampling_locations", "grad_attention_weights")


def formula(value, shapes, locations, weights):
    """The operator computed level by level, from the formula in its documentation."""
    images, queries, heads = weights.shape[:3]
    levels = value.split([height * width for height, width in shapes], dim=1)
    output = []
    for image, head in itertools.product(range(images), range(heads)):
        total = torch.zeros(queries, value.shape[3], dtype=torch.float64)
        for number, (level, (height, width)) in enumerate(zip(levels, shapes, strict=True)):
            x, y = locations[image, :, head, number].unbind(-1)
            samples = bilinear(level[image, :, head].view(height, width, -1), x * width - 0.5, y * height - 0.5)
            total = total + (samples * weights[image, :, head, number, :, None]).sum(1)
        output.append(total)
    return torch.stack(output).view(images, heads, queries, -1).permute(0, 2, 1, 3).flatten(2)


def make(images, queries, heads, channels, shapes, points, dtypes):
    """Value, locations, weights and the output's gradient, float64, with numbers that the dtypes represent exactly."""
    random = torch.Generator().manual_seed(queries + channels)
    positions = sum(height * width for height, width in shapes)
    sampling = (images, queries, heads, len(shapes), points)
    tensors = [
        torch.randn(images, positions, heads, channels, generator=random, dtype=torch.float64),
        torch.rand(*sampling, 2, generator=random, dtype=torch.float64) * 1.6 - 0.3,
        torch.randn(sampling, generator=random, dtype=torch.float64),
        torch.randn(images, queries, heads * channels, generator=random, dtype=torch.float64),
    ]
    spoil(tensors[1])
    return [tensor.to(dtype).double() for tensor, dtype in zip(tensors, (*dtypes, dtypes[0]), strict=True)]


F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
CASES = {
    "plain": ((2, 70, 2, 16, [(5, 4), (3, 2)], 4), F32),
    "one level, 16x16": ((1, 16, 2, 32, [(16, 16)], 4), F32),
    "float64": ((2, 5, 3, 20, [(5, 4), (1, 2)], 2), F64),
    "half": ((2, 9, 2, 16, [(8, 8), (4, 4), (1, 2)], 4), F16),
    "bfloat16": ((1, 9, 2, 32, [(8, 7), (4, 3), (2, 1)], 4), BF16),
    "half everywhere": ((1, 6, 2, 16, [(4, 4), (2, 2)], 4), (F16, F16, F16)),
    "mixed": ((1, 6, 2, 8, [(4, 4), (2, 2)], 3), (F32, F32, BF16)),
    "8 channels": ((3, 6, 4, 8, [(6, 5)], 1), F32),
    "10 channels": ((2, 6, 3, 10, [(6, 5), (3, 3)], 3), F32),
    "12 channels": ((1, 6, 3, 12, [(6, 5), (3, 3)], 4), BF16),
    "15 channels": ((1, 6, 3, 15, [(6, 5), (3, 3)], 4), BF16),
    "many points": ((1, 6, 2, 8, [(4, 5), (3, 3), (2, 2)], 8), F32),
    "one pixel": ((1, 4, 2, 16, [(1, 1), (1, 1)], 2), F32),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(case):
    shape, dtypes = CASES[case]
    dtypes = dtypes if isinstance(dtypes, tuple) else (dtypes, *(F64 if dtypes == F64 else F32,) * 2)
    value, locations, weights, given = make(*shape, dtypes)
    exact = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    expected = formula(value, shape[4], locations, weights)
    gradients = torch.autograd.grad(expected, exact, given)

    value, *sampling = (between_poison(tensor.detach(), dtype) for tensor, dtype in zip(exact, dtypes, strict=True))
    output = ms_deform_attn.ms_deform_attn_forward(value, shape[4], *sampling)
    given = between_poison(given, dtypes[0])
    results = ms_deform_attn.ms_deform_attn_backward(given, value, shape[4], *sampling)
    assert [tensor.dtype for tensor in (output, *results)] == [dtypes[0], *dtypes]
    tolerances = [TOLERANCE[dtype] for dtype in (dtypes[0], *dtypes)]
    assert_close(NAMES, (output, *results), (expected, *gradients), tolerances)


def on_device(images):
    shapes = [(5, 4), (3, 2)]
    tensors = make(images, 7, 2, 8, shapes, 3, (F32, F32, F32))
    return shapes, *(tensor.to(DEVICE, F32) for tensor in tensors)


def test_takes_values_that_begin_anywhere():
    """Two bfloat16 numbers are loaded at once, which memory that begins between two of them does not allow."""
    shapes, *tensors = on_device(2)
    value, locations, weights, _ = (tensor.to(BF16) for tensor in tensors)
    shifted = torch.cat([value.new_zeros(1), value.flatten()])[1:].view(value.shape)
    assert shifted.data_ptr() % (2 * shifted.itemsize)
    assert torch.equal(
        ms_deform_attn.ms_deform_attn_forward(shifted, shapes, locations, weights),
        ms_deform_attn.ms_deform_attn_forward(value, shapes, locations, weights),
    )


def test_takes_any_strides():
    shapes, *tensors = on_device(2)
    value, locations, weights, given = tensors
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.equal(
        ms_deform_attn.ms_deform_attn_forward(strided[0], shapes, *strided[1:3]),
        ms_deform_attn.ms_deform_attn_forward(value, shapes, locations, weights),
    )
    results = ms_deform_attn.ms_deform_attn_backward(strided[3], strided[0], shapes, *strided[1:3])
    for result, expected in zip(
        results, ms_deform_attn.ms_deform_attn_backward(given, value, shapes, locations, weights), strict=True
    ):
        torch.testing.assert_close(result, expected)


def test_no_images_no_queries():
    shapes, value, locations, weights, given = on_device(0)
    assert ms_deform_attn.ms_deform_attn_forward(value, shapes, locations, weights).shape == (0, 7, 16)
    results = ms_deform_attn.ms_deform_attn_backward(given, value, shapes, locations, weights)
    assert [result.shape for result in results] == [value.shape, locations.shape, weights.shape]
    shapes, value, locations, weights, given = on_device(2)
    locations, weights, given = locations[:, :0], weights[:, :0], given[:, :0]
    assert ms_deform_attn.ms_deform_attn_forward(value, shapes, locations, weights).shape == (2, 0, 16)
    results = ms_deform_attn.ms_deform_attn_backward(given, value, shapes, locations, weights)
    assert not results[0].any() and [result.shape for result in results[1:]] == [locations.shape, weights.shape]


def test_wrong_shapes_say_which():
    shapes, value, locations, weights, given = on_device(1)
    with pytest.raises(ValueError, match="value must be"):
        ms_deform_attn.ms_deform_attn_forward(value[:, 1:], shapes, locations, weights)
    with pytest.raises(ValueError, match="sampling_locations must be"):
        ms_deform_attn.ms_deform_attn_forward(value, shapes, locations[:, 1:], weights)
    with pytest.raises(ValueError, match="attention_weights must be"):
        ms_deform_attn.ms_deform_attn_forward(value, shapes, locations, weights[:, :, :, :1])
    with pytest.raises(ValueError, match="grad_output must be"):
        ms_deform_attn.ms_deform_attn_backward(given[..., 1:], value, shapes, locations, weights)
    with pytest.raises(ValueError, match="floating-point"):
        ms_deform_attn.ms_deform_attn_forward(value, shapes, locations, weights.long())
