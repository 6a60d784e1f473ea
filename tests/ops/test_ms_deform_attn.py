"""Multi-scale deformable attention against recorded numbers and a definition in loops, and its edge cases."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from segzoo.errors import SegZooError
from segzoo.ops import bilinear_bags, ms_deform_attn

RECORD = Path(__file__).parent / "records" / "ms_deform_attn"
CASES = json.loads(RECORD.with_suffix(".json").read_text())
NAMES = ("value", "sampling_locations", "attention_weights")
SHAPES = ((4, 5), (2, 3))


def make(shapes=SHAPES, batch=1, queries=6, heads=2, depth=3, points=2, dtype=torch.float64, spread=0.3, seed=0):
    """Random (value, sampling_locations, attention_weights)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    length = sum(height * width for height, width in shapes)
    return (
        draw(batch, length, heads, depth).to(dtype),
        (0.5 + spread * draw(batch, queries, heads, len(shapes), points, 2)).to(dtype),
        draw(batch, queries, heads, len(shapes), points).to(dtype),
    )


def by_definition(value, shapes, locations, weights):
    """The docstring of `ms_deform_attn`, point by point, in Python floats."""
    batch, queries, heads, levels, points, _ = locations.shape
    output = torch.zeros(batch, queries, heads, value.shape[3], dtype=torch.float64)
    starts = [0, *itertools.accumulate(height * width for height, width in shapes)]
    for n, q, h, level, p in itertools.product(*map(range, (batch, queries, heads, levels, points))):
        height, width = shapes[level]
        x, y = (locations[n, q, h, level, p].double() * torch.tensor([width, height]) - 0.5).tolist()
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        left, top = math.floor(x), math.floor(y)
        for xi, yi in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            if 0 <= xi < width and 0 <= yi < height:
                share = (1 - abs(x - xi)) * (1 - abs(y - yi)) * weights[n, q, h, level, p].double()
                output[n, q, h] += share * value[n, starts[level] + yi * width + xi, h].double()
    return output.flatten(2)


def gradients(tensors, shapes=SHAPES, weights=None):
    """Output and the gradients of (value, sampling_locations, attention_weights)."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    output = ms_deform_attn(tensors[0], shapes, *tensors[1:])
    weights = torch.ones_like(output) if weights is None else weights.to(output.dtype)
    return output.detach(), torch.autograd.grad(output, tensors, weights)


@pytest.mark.parametrize("name", CASES)
def test_recorded_numbers_of_the_original(name):
    record = {k.removeprefix(f"{name}."): v for k, v in load_file(f"{RECORD}.safetensors").items()}
    output, found = gradients([record[k] for k in NAMES], CASES[name], record["output_gradient"])
    assert torch.allclose(output, record["output"], rtol=0, atol=1e-13)
    for key, gradient in zip(NAMES, found, strict=True):
        assert torch.allclose(gradient, record[f"{key}_gradient"], rtol=0, atol=1e-12), key


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    heads=st.integers(1, 3),
    depth=st.integers(1, 3),
    points=st.integers(1, 3),
    spread=st.sampled_from([0.0, 0.3, 2.0]),
    seed=st.integers(0, 999),
)
def test_definition(shapes, **sizes):
    value, locations, weights = make(shapes, **sizes)
    found = ms_deform_attn(value, shapes, locations, weights)
    assert torch.allclose(found, by_definition(value, shapes, locations, weights), rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    tensors = [t.requires_grad_() for t in make()]
    assert torch.autograd.gradcheck(lambda v, s, a: ms_deform_attn(v, SHAPES, s, a), tensors, eps=1e-6, atol=1e-6)


def test_work_in_strips_changes_nothing(monkeypatch):
    tensors = make(batch=2)
    output, expected = gradients(tensors)
    monkeypatch.setattr(bilinear_bags, "_CPU_POINTS", 1)
    monkeypatch.setattr(bilinear_bags, "_CPU_GATHERED", 1)
    strips, found = gradients(tensors)
    for a, b in zip((strips, *found), (output, *expected), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_lower_precision(dtype, tolerance):
    """Only the inputs and the results are rounded: what lies between is float32."""
    tensors = make(batch=2, depth=8, dtype=dtype)
    weights = torch.randn(2, 6, 16).to(dtype)
    output, found = gradients(tensors, weights=weights)
    expected_output, expected = gradients([t.double() for t in tensors], weights=weights)
    assert output.dtype == dtype and all(g.dtype == dtype for g in found)
    for a, b in zip((output, *found), (expected_output, *expected), strict=True):
        assert float((a.double() - b).abs().max()) <= tolerance * float(b.abs().max())


def test_autocast_casts_the_value_and_keeps_positions():
    value, locations, weights = make(dtype=torch.float32)
    exact = ms_deform_attn(value.bfloat16(), SHAPES, locations, weights)
    with torch.autocast("cpu", torch.bfloat16):
        output = ms_deform_attn(value, SHAPES, locations, weights)
    assert output.dtype == torch.bfloat16 and torch.equal(output, exact)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9])
def test_far_and_broken_locations(broken):
    """Such a point contributes nothing; the other points, and all gradients, stay what they are without it."""
    value, locations, weights = make(dtype=torch.float32)
    without, neutral = weights.clone(), locations.clone()
    locations[0, 2, 1, 0, 1, 1] = broken
    without[0, 2, 1, 0, 1] = 0
    output, found = gradients((value, locations, weights))
    expected_output, expected = gradients((value, neutral, without))
    assert torch.allclose(output, expected_output, atol=1e-6)
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert not found[1][0, 2, 1, 0, 1].any() and found[2][0, 2, 1, 0, 1] == 0
    assert all(torch.isfinite(gradient).all() for gradient in found)


def test_levels_and_images_do_not_leak_into_each_other():
    """Every level of every image holds a number of its own; what is read near the edges is that number, or less."""
    value = torch.cat([torch.full((2, 20, 1, 1), 1.0), torch.full((2, 6, 1, 1), 10.0)], dim=1)
    value[1] *= 100
    locations = torch.rand(2, 500, 1, 2, 1, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.3
    for level, number in enumerate((1.0, 10.0)):
        weights = torch.zeros(2, 500, 1, 2, 1)
        weights[:, :, :, level] = 1
        output = ms_deform_attn(value, SHAPES, locations, weights)
        for image, expected in enumerate((number, number * 100)):
            assert output[image].max() == pytest.approx(expected) and output[image].min() == 0


def test_edges_of_a_level():
    """0 and 1 are the outer edges of the outermost pixels, where half of the value is left."""
    value = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for x, expected in ((0.5, 1.0), (0.0, 0.5), (1.0, 0.5), (-0.5, 0.0), (1.5, 0.0)):
        location = torch.tensor([x, 0.5], dtype=torch.float64).view(1, 1, 1, 1, 1, 2)
        assert float(ms_deform_attn(value, [(1, 1)], location, torch.ones(1, 1, 1, 1, 1).double())) == expected


def test_tensors_in_other_memory_layouts():
    tensors = make(batch=2)
    output, expected = gradients(tensors)
    found_output, found = gradients([t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors])
    assert torch.equal(found_output, output)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}])
def test_nothing_to_do(sizes):
    tensors = make(**sizes)
    output, found = gradients(tensors)
    assert output.numel() == 0 and [g.shape for g in found] == [t.shape for t in tensors]
    assert not found[0].any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_with_the_sizes_of_maps():
    _, locations, weights = make(shapes=((4, 5),))

    def attend(map, locations, weights):
        value = map.flatten(2).mT.unflatten(2, (2, 3))
        return ms_deform_attn(value, [map.shape[-2:]], locations, weights)

    inputs = torch.randn(1, 6, 4, 5, dtype=torch.float64), locations, weights
    torch.testing.assert_close(torch.jit.trace(attend, inputs)(*inputs), attend(*inputs))


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_operator_is_registered_as_pytorch_asks(fused):
    value, locations, weights = (t.requires_grad_() for t in make(dtype=torch.float32))
    torch.library.opcheck(torch.ops.segzoo.ms_deform_attn.default, (value, [4, 5, 2, 3], locations, weights, fused))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: {"value": t["value"][0]}, r"value must be \(N, S, heads, D\), got \(26, 2, 3\)"),
        (lambda t: {"sampling_locations": t["sampling_locations"][0]}, "sampling_locations must be"),
        (lambda t: {"attention_weights": t["attention_weights"][..., None]}, "attention_weights must be"),
        (lambda t: {"attention_weights": t["attention_weights"].long()}, "attention_weights must be floating-point"),
        (lambda t: {"value": t["value"].to("meta")}, "sampling_locations is on cpu but value on meta"),
        (lambda t: {"spatial_shapes": torch.tensor(SHAPES)}, "got a tensor"),
        (lambda t: {"spatial_shapes": [(4, 5), (2, 4)]}, "value has 26 positions but spatial_shapes .* make 28"),
        (lambda t: {"spatial_shapes": [(26, 1), (1, 0)]}, "at least 1"),
        (lambda t: {"spatial_shapes": []}, "spatial_shapes must be pairs"),
        (lambda t: {"spatial_shapes": [(26, 1)]}, r"attention_weights must be \(1, 6, 2, 1, 2\)"),
        (
            lambda t: {"attention_weights": t["attention_weights"][:, :5]},
            r"sampling_locations must be \(1, 5, 2, 2, 2, 2\)",
        ),
        (lambda t: {"value": t["value"][..., :0]}, "no heads, channels or points"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    arguments = dict(zip(NAMES, make(), strict=True)) | {"spatial_shapes": SHAPES}
    with pytest.raises(SegZooError, match=words):
        ms_deform_attn(**(arguments | change(arguments)))
