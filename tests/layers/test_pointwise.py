import pytest
import torch
from torch.nn import functional as F

from segzoo.layers import PointwiseLinear


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 1, 6), (2, 7, 6), (3, 1, 6), (4, 6)], ids=str)
def test_equals_linear(shape, bias, threads):
    layer, x = PointwiseLinear(6, 10, bias=bias), torch.randn(shape).requires_grad_()
    found, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_dtypes_and_autocast():
    layer, x = PointwiseLinear(6, 10), torch.randn(1, 3, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer.double()(x.double()), F.linear(x.double(), layer.weight, layer.bias))


def test_compiles_as_one_graph(threads):
    layer, x = PointwiseLinear(6, 10), torch.randn(1, 3, 4, 6)
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_compiled_graphs_do_not_reorder_images(threads):
    """The hidden map lies in memory as the second convolution reads it."""
    layers = torch.nn.Sequential(PointwiseLinear(64, 256), torch.nn.GELU(), PointwiseLinear(256, 64))
    compiled, x = torch.compile(layers), torch.randn(1, 32, 32, 64)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), layers(x))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            compiled(x)
    names = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in names and not names & {"aten::copy_", "aten::clone"}
