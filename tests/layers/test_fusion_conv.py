import pytest
import torch
from torch import nn

from segzoo.layers import FusionConv
from segzoo.layers.resize import concatenate

SIZES = ((4, (16, 21)), (40, (8, 11)), (3, (1, 1)), (2, (16, 21)), (30, (6, 5)), (2, (13, 17)))


def make(dtype=torch.float64, layout=torch.contiguous_format, kernel_size=3, **options):
    conv = FusionConv(sum(c for c, _ in SIZES), 7, kernel_size, bias=True, **options).to(dtype).eval()
    maps = [torch.randn(2, c, *size, dtype=dtype).to(memory_format=layout).requires_grad_() for c, size in SIZES]
    return conv, maps


def as_written(fusion, maps, size=None):
    """Without the short way."""
    x = fusion.conv(concatenate(maps, align_corners=fusion.align_corners, size=size))
    return fusion.activation(fusion.norm(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "kernel", [{"padding": 1}, {"padding": 2, "dilation": 2}, {"kernel_size": 1}, {"kernel_size": 5, "padding": 1}]
)
def test_equals_resize_concatenate_convolve(kernel, align_corners, layout):
    fusion, maps = make(layout=layout, align_corners=align_corners, **kernel)
    assert fusion.conv._short_way(maps, maps[0].shape[2:])
    found, expected = fusion(maps), as_written(fusion, maps)
    gradient = torch.randn_like(expected)
    inputs = [*maps, *fusion.parameters()]
    pairs = zip(
        torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    )
    for a, b in ((found, expected), *pairs):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [(2, 0, 3), (2, 4, 1)], ids=["another map's", "no map's"])
def test_a_size_that_is_not_the_first_maps(order):
    sizes = [SIZES[i] for i in order]
    fusion = FusionConv(sum(c for c, _ in sizes), 7, 3, padding=1).double().eval()
    maps = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in sizes]
    found = fusion(maps, size=(16, 21))
    assert found.shape == (2, 7, 16, 21)
    torch.testing.assert_close(found, as_written(fusion, maps, (16, 21)), rtol=1e-11, atol=1e-11)


def test_the_short_way_is_taken_and_saves_work():
    from torch.utils.flop_counter import FlopCounterMode

    # In float64, for in float32 large convolutions have fewer products.
    fusion = FusionConv(4 * 128, 128, 3, padding=1).eval().double()
    maps = [torch.randn(1, 128, side, side, dtype=torch.float64) for side in (32, 16, 8, 4)]
    counts = []
    for way in (fusion, lambda maps: as_written(fusion, maps)):
        with FlopCounterMode(display=False) as counter:
            way(maps)
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.5 * counts[1]


def test_half_precision_is_as_good_as_the_long_way():
    fusion, maps = make(torch.float32, padding=1)
    with torch.no_grad():
        exact = as_written(fusion, maps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors = [float((way - exact).abs().mean()) for way in (fusion(maps), as_written(fusion, maps))]
    assert 0 < errors[0] < 1.5 * errors[1]


def test_a_replaced_convolution_is_called():
    """As adapters such as LoRA do: theirs wraps the convolution, whose own weights are only a part of it."""

    class Doubled(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return 2 * self.conv(x)

    fusion, maps = make(padding=1, norm=None, activation=None)
    expected = 2 * fusion(maps)
    fusion.conv = Doubled(fusion.conv)
    torch.testing.assert_close(fusion(maps), expected)


def test_one_map_and_compiled():
    fusion, maps = make(torch.float32, padding=1)
    alone = FusionConv(4, 3, 3, padding=1).eval()
    torch.testing.assert_close(alone(maps[:1]), alone.activation(alone.norm(alone.conv(maps[0]))))
    with torch.no_grad():
        compiled = torch.compile(fusion, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(maps), as_written(fusion, maps), rtol=1e-4, atol=1e-5)
