import importlib
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.layers.conv import Conv2d, _rows_are_faster
from segzoo.layers.fusion_conv import FusionConv
from segzoo.layers.phases import depthwise_conv_of_phases
from segzoo.layers.pointwise import TWO_LIBRARIES
from segzoo.layers.winograd import (
    TrainedWinograd,
    winograd_conv,
    winograd_rows_conv,
    winograd_rows_share,
    winograd_share,
    winograd_weight_gradient,
)

SIZES = [(13, 10), (8, 8), (5, 17), (1, 3)]
x86 = pytest.mark.skipif(not TWO_LIBRARIES, reason="PyTorch has one library for products and convolutions here")
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def numbers(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dilation", [1, 2, 3, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("strip", [1, 2**24], ids=["strips", "whole"])
def test_winograd_equals_the_convolution(size, dilation, layout, strip, monkeypatch):
    monkeypatch.setattr("segzoo.layers.winograd._STRIP", strip)
    x, weight, bias = numbers(2, 6, *size).to(memory_format=layout), numbers(5, 6, 3, 3), numbers(5)
    for own in (bias, None):
        found = winograd_conv(x, weight, own, dilation)
        torch.testing.assert_close(found, F.conv2d(x, weight, own, 1, dilation, dilation), **CLOSE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dilation", [1, 2, 3, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("strip", [1, 2**24], ids=["strips", "whole"])
def test_winograds_gradients_equal_the_convolutions(size, dilation, layout, strip, monkeypatch):
    monkeypatch.setattr("segzoo.layers.winograd._STRIP", strip)
    x, weight, bias = numbers(2, 6, *size).to(memory_format=layout), numbers(5, 6, 3, 3), numbers(5)
    upstream = numbers(2, 5, *size)
    for inputs in ((x, weight, bias), (x, weight, None)):
        own = [None if value is None else value.clone().requires_grad_() for value in inputs]
        usual = [None if value is None else value.clone().requires_grad_() for value in inputs]
        result = TrainedWinograd.apply(*own, dilation)
        assert result.is_contiguous(memory_format=layout)
        result.backward(upstream)
        F.conv2d(*usual, 1, dilation, dilation).backward(upstream)
        for found, expected in zip(own, usual, strict=True):
            if found is not None:
                torch.testing.assert_close(found.grad, expected.grad, **CLOSE)


@pytest.mark.parametrize("trained", [(True, False, False), (False, True, False), (False, False, True)])
def test_winograd_has_the_gradients_that_are_asked_for(trained):
    values = (numbers(1, 3, 9, 7), numbers(4, 3, 3, 3), numbers(4))
    inputs = [value.requires_grad_(needed) for value, needed in zip(values, trained, strict=True)]
    assert torch.autograd.gradcheck(lambda *given: TrainedWinograd.apply(*given, 2), inputs)
    assert torch.autograd.gradgradcheck(lambda *given: TrainedWinograd.apply(*given, 2), inputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("strip", [1, 2**24], ids=["strips", "whole"])
def test_winograd_along_columns_equals_the_convolution(size, layout, strip, monkeypatch):
    monkeypatch.setattr("segzoo.layers.winograd._STRIP", strip)
    x, weight, bias = numbers(2, 6, *size).to(memory_format=layout), numbers(5, 6, 3, 3), numbers(5)
    for own in (bias, None):
        torch.testing.assert_close(winograd_rows_conv(x, weight, own), F.conv2d(x, weight, own, padding=1), **CLOSE)


def test_winograds_error_in_bfloat16_stays_in_bounds():
    x, weight = numbers(1, 256, 24, 24).relu().bfloat16(), numbers(16, 256, 3, 3)
    exact = F.conv2d(x.double(), weight, padding=1)
    usual, found = F.conv2d(x, weight.bfloat16(), padding=1), winograd_rows_conv(x, weight.float(), None)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    usual, found = ((y - exact).square().mean().sqrt() / exact.square().mean().sqrt() for y in (usual, found))
    assert found < 3 * usual < 0.01


def test_winograds_error_in_float32_is_that_of_the_convolution():
    x, weight = numbers(1, 256, 24, 24).relu(), numbers(16, 256, 3, 3)
    exact = F.conv2d(x, weight, padding=1)
    x, weight = x.float(), weight.float()
    usual, found = F.conv2d(x, weight, padding=1), winograd_conv(x, weight, None, 1)
    usual, found = ((y - exact).abs().max() / exact.abs().max() for y in (usual, found))
    assert found < max(3 * usual, 3e-6)


def test_winograds_gradients_error_in_float32_is_that_of_the_convolution():
    x, upstream = numbers(2, 32, 96, 96).relu(), numbers(2, 16, 96, 96)
    usual, exact = (
        torch.nn.grad.conv2d_weight(given, (16, 32, 3, 3), gradient, padding=1)
        for given, gradient in ((x.float(), upstream.float()), (x, upstream))
    )
    found = winograd_weight_gradient(x.float(), upstream.float(), 1)
    usual, found = ((y - exact).abs().max() / exact.abs().max() for y in (usual, found))
    assert found < max(3 * usual, 3e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "dilation", "pays"),
    [
        (512, 256, 64, 1, True),
        (256, 256, 64, 2, True),
        (512, 512, 64, 4, True),
        (512, 512, 32, 2, True),
        (64, 64, 128, 1, False),  # the tiles' factors take as long as the products
        (512, 512, 16, 1, False),  # the kernels' factors do
        (2048, 256, 64, 24, False),  # the tiles are mostly padding
    ],
)
def test_winograds_share_of_the_time(inputs, outputs, side, dilation, pays):
    share = winograd_share(torch.Size((1, inputs, side, side)), torch.Size((outputs, inputs, 3, 3)), dilation)
    assert (share < 0.8) == pays
    assert 0.25 < share < 2


@pytest.mark.parametrize(
    ("channels", "side", "pays"), [(512, 128, True), (512, 64, True), (512, 16, False), (64, 128, False)]
)
def test_winograds_share_of_the_time_in_bfloat16(channels, side, pays):
    share = winograd_rows_share(torch.Size((1, channels, side, side)), torch.Size((channels, channels, 3, 3)))
    assert (share < 0.8) == pays
    assert 0.5 < share < 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dilation", [2, 7, 12])
def test_phases_equal_the_depthwise_convolution(size, dilation):
    x, weight, bias = numbers(2, 6, *size), numbers(12, 1, 3, 3), numbers(12)
    for own in (bias, None):
        found = depthwise_conv_of_phases(x, weight, own, dilation)
        torch.testing.assert_close(found, F.conv2d(x, weight, own, 1, dilation, dilation, 6), **CLOSE)


def calls(monkeypatch, name, module="segzoo.layers.conv"):
    module = importlib.import_module(module)
    seen, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: seen.append(args) or function(*args))
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 2, "dilation": 3, "groups": 8},
        {"padding": 2, "dilation": 2, "groups": 8, "stride": 2},
        {"padding": 2, "dilation": 2, "groups": 4},
        {"padding": 12, "dilation": 12, "groups": 4},
        {"padding": 12, "dilation": 12, "groups": 8},
        {"padding": 11, "dilation": 12, "groups": 8},
        {"padding": (2, 3), "dilation": (2, 3), "groups": 8},
        {"padding": 2, "dilation": 2, "groups": 8, "padding_mode": "reflect"},
        {"padding": 0, "stride": 2},
        {"padding": "same", "dilation": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_all_other_convolutions_stay(kernel_size, options):
    if kernel_size == 1:
        options = {**options, "padding": 0 if options["padding"] != "same" else "same"}
    conv = Conv2d(8, 8, kernel_size, **options).double()
    x = numbers(2, 8, 9, 12)
    expected = torch.nn.Conv2d.forward(conv, x)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected, **CLOSE)


@pytest.mark.parametrize("channels", [3, 15, 16])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_gradients_of_strided_pointwise_convolutions(channels, stride):
    conv = Conv2d(channels, 6, 1, stride=stride).to(memory_format=torch.channels_last)
    x = numbers(2, channels, 9, 12, dtype=torch.float32).to(memory_format=torch.channels_last).requires_grad_()
    found = conv(x)
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), stride)
    torch.testing.assert_close(found, expected.float())
    inputs = (x, conv.weight, conv.bias)
    gradients = torch.autograd.grad(found.square().sum(), inputs)
    for a, b in zip(gradients, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


BESIDE_OTHER_MEMORY = """
import sys, torch
from segzoo.layers.conv import Conv2d

conv = Conv2d(8, 16, 1, stride=2).to(memory_format=torch.channels_last)
run = torch.compile(conv) if sys.argv[1:] == ["compiled"] else conv
x = torch.randn(2, 8, 64, 64).to(memory_format=torch.channels_last).requires_grad_()
for _ in range(60):
    others = [torch.randn(n) for n in torch.randint(1, 5000, (20,)).tolist()]
    run(x).square().mean().backward()
"""


@pytest.mark.parametrize("way", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_gradients_of_strided_pointwise_convolutions_stay_in_their_memory(way):
    """oneDNN's do not on AVX-512, which ends the process."""
    run = subprocess.run([sys.executable, "-c", BESIDE_OTHER_MEMORY, way], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@x86
def test_wide_convolutions_of_large_maps_take_winograds_way(monkeypatch):
    seen = calls(monkeypatch, "winograd_conv")
    conv, x = Conv2d(256, 256, 3, padding=2, dilation=2), numbers(1, 256, 40, 56, dtype=torch.float32)
    expected = torch.nn.Conv2d.forward(conv, x)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)
        assert len(seen) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(x).dtype == torch.bfloat16
        conv(x[:, :, :8])  # too small
        conv.weight.zero_()
        assert torch.equal(conv(x), conv.bias[:, None, None].expand_as(expected))  # no kernels of old weights
    assert len(seen) == 2


@x86
def test_wide_convolutions_take_winograds_way_in_training(monkeypatch):
    seen = calls(monkeypatch, "winograd_conv", "segzoo.layers.winograd")
    conv, x = Conv2d(256, 256, 3, padding=2, dilation=2), numbers(1, 256, 40, 56, dtype=torch.float32)
    found, expected = [], []
    for forward, gradients in ((conv, found), (torch.nn.Conv2d(256, 256, 3, padding=2, dilation=2), expected)):
        forward.load_state_dict(conv.state_dict())
        given = x.clone().requires_grad_()
        forward(given).square().sum().backward()
        gradients += [given.grad, forward.weight.grad, forward.bias.grad]
    assert len(seen) == 2  # forward and backward
    seen.clear()
    for ours, usual in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-5 * float(usual.abs().max()))
    with torch.autocast("cpu", torch.bfloat16):
        usual = conv.weight.grad.clone()
        conv.zero_grad()
        with torch.autocast("cpu", enabled=False):
            value = conv(x).square().sum()
        value.backward()
    assert torch.equal(conv.weight.grad, usual)
    conv.requires_grad_(False).zero_grad()
    conv(x.requires_grad_()).sum().backward()  # a frozen layer in front of which something is trained
    assert conv.weight.grad is None
    torch.compile(conv, backend="eager", fullgraph=True)(x)
    assert len(seen) == 3  # the one above has no gradient of its input


@pytest.mark.parametrize("gradients", [True, False], ids=["training", "inference"])
def test_wide_convolutions_can_be_transformed(gradients):
    """Where Winograd's way would be taken, as `nn.Conv2d` can."""
    conv, x = Conv2d(256, 256, 3, padding=1), numbers(2, 1, 256, 32, 32, dtype=torch.float32)
    own = torch.nn.Conv2d.forward

    def loss(weight, x):
        return torch.func.functional_call(conv, {"weight": weight}, x).square().sum()

    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(torch.vmap(conv)(x), torch.stack([own(conv, y) for y in x]))
        _, tangent = torch.func.jvp(conv, (x[0],), (x[1],))
        torch.testing.assert_close(tangent, own(conv, x[1]) - conv.bias[:, None, None], rtol=1e-4, atol=1e-4)
        with forward_ad.dual_level():
            dual = conv(forward_ad.make_dual(x[0], x[1]))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)
        of_samples = torch.vmap(torch.func.grad(loss), (None, 0))(conv.weight, x)
        torch.testing.assert_close(
            of_samples.sum(0), torch.func.grad(loss)(conv.weight, x.flatten(0, 1)), rtol=1e-4, atol=1e-2
        )


@x86
def test_wide_convolutions_in_bfloat16_take_winograds_way_along_columns(monkeypatch):
    monkeypatch.setattr("segzoo.layers.conv._VECTORS_OF_BFLOAT16", True)
    # Narrow and small ones stand for wide and large ones, which take minutes where bfloat16 is emulated; what pays is tested above.
    monkeypatch.setattr("segzoo.layers.conv._WINOGRAD_SHARE", 3.0)
    seen = calls(monkeypatch, "winograd_rows_conv")
    conv, x = Conv2d(64, 64, 3, padding=1), numbers(1, 64, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        expected = conv(x)
        for autocast in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = conv(x) if autocast else conv.bfloat16()(x.bfloat16())
            assert found.dtype == torch.bfloat16
            assert (found - expected).square().mean().sqrt() < 0.01 * expected.square().mean().sqrt()
        assert len(seen) == 2
        with torch.autocast("cpu", torch.float16):
            assert not _rows_are_faster(x, conv.weight)
        conv(x[:, :, :4].bfloat16())  # too small
    conv(x.bfloat16())  # gradients have their usual way
    monkeypatch.setattr("segzoo.layers.conv._VECTORS_OF_BFLOAT16", False)
    with torch.no_grad():
        conv(x.bfloat16())
    assert len(seen) == 2


@x86
def test_fusion_of_large_and_small_maps_takes_winograds_way(monkeypatch):
    fusion = FusionConv(512, 256, 3, padding=1).eval()
    maps = [numbers(1, channels, side, side, dtype=torch.float32) for channels, side in ((64, 2), (256, 48), (192, 3))]
    resized = torch.cat([F.interpolate(x, size=(48, 48), mode="bilinear") for x in maps], dim=1)
    expected = fusion.activation(fusion.norm(torch.nn.Conv2d.forward(fusion.conv, resized)))
    seen = calls(monkeypatch, "winograd_conv")
    with torch.no_grad():
        torch.testing.assert_close(fusion(maps, size=(48, 48)), expected, rtol=1e-5, atol=1e-5)
    assert [args[1].shape for args in seen] == [(256, 256, 3, 3)]


@x86
def test_far_dilated_depthwise_convolutions_go_by_phases(monkeypatch):
    seen = calls(monkeypatch, "depthwise_conv_of_phases")
    conv, x = Conv2d(8, 8, 3, padding=12, dilation=12, groups=8), numbers(1, 8, 16, 20, dtype=torch.float32)
    expected = conv(x)
    assert not seen  # gradients have their usual way
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected, rtol=1e-6, atol=1e-6)
    assert len(seen) == 1


def test_empty_batches():
    for dtype in (torch.float32, torch.bfloat16):
        conv = Conv2d(64, 64, 3, padding=1).to(dtype)
        assert conv(torch.zeros((0, 64, 32, 24), dtype=dtype)).shape == (0, 64, 32, 24)
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny()).eval()
    with torch.no_grad():
        assert len(model(pixel_values=torch.zeros(0, 3, 64, 64)).logits) == 0
