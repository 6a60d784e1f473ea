import pytest
import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import PyramidNeck, PyramidNeckConfig


def test_one_map_feeds_all_scales():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[6])).eval()
    x = torch.randn(2, 6, 5, 8)
    finest, fine, same, coarse = neck([x])
    assert finest.shape[-2:] == (20, 32) and fine.shape[-2:] == (10, 16)
    assert torch.equal(same, x) and torch.equal(coarse, F.max_pool2d(x, 2))


def test_wrong_maps_are_named():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[6]))
    with pytest.raises(SegZooError, match="built for 1 maps but was given 2"):
        neck([torch.randn(1, 6, 4, 4)] * 2)
    with pytest.raises(SegZooError, match="at least two patches"):
        neck([torch.randn(1, 6, 1, 4)])
    with pytest.raises(SegZooError, match="one map or four"):
        PyramidNeckConfig(in_channels=[6, 6])
    with pytest.raises(SegZooError, match="at least four patches"):
        PyramidNeck(PyramidNeckConfig(in_channels=[6], scales=[1.0, 0.25]))([torch.randn(1, 6, 3, 4)])
    with pytest.raises(SegZooError, match="one map or two"):
        PyramidNeckConfig(in_channels=[6] * 4, scales=[2.0, 0.5])


@pytest.mark.parametrize("scales", [[], [3.0], [1.0, 2.0], [2.0, 2.0]])
def test_scales_are_known_and_fall(scales):
    with pytest.raises(SegZooError, match="falling"):
        PyramidNeckConfig(scales=scales)


def test_patches_of_8():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[6, 7, 8, 9], scales=[2.0, 1.0, 0.5, 0.25])).eval()
    maps = [torch.randn(2, channels, 5, 9) for channels in neck.config.in_channels]
    up, same, half, quarter = neck(maps)
    assert neck.out_channels == [6, 7, 8, 9] and up.shape == (2, 6, 10, 18)
    assert torch.equal(same, maps[1]) and torch.equal(half, F.max_pool2d(maps[2], 2))
    assert torch.equal(quarter, F.max_pool2d(maps[3], 4))
    assert {name.partition(".")[0] for name in neck.state_dict()} == {"upsample_2x"}


def test_norms_of_maps_and_between_the_upsamplings():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[32] * 4, norm="group_norm", layer_norm_eps=1e-2)).double()
    maps = [torch.randn(2, 32, 4, 5, dtype=torch.double) for _ in range(4)]
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    state = neck.state_dict()
    normed = [
        F.layer_norm(x.permute(0, 2, 3, 1), (32,), *(state[f"layer_norms.{i}.{n}"] for n in ("weight", "bias")), 1e-2)
        for i, x in enumerate(maps)
    ]
    four, two, one, half = (x.permute(0, 3, 1, 2) for x in normed)
    weights = [[state[f"upsample_4x.{i}.{name}"] for name in ("weight", "bias")] for i in (0, 1, 3)]
    four = F.gelu(F.group_norm(F.conv_transpose2d(four, *weights[0], stride=2), 32, *weights[1], 1e-5))
    two = F.conv_transpose2d(two, state["upsample_2x.weight"], state["upsample_2x.bias"], stride=2)
    wanted = [F.conv_transpose2d(four, *weights[2], stride=2), two, one, F.max_pool2d(half, 2)]
    for found, expected in zip(neck(maps), wanted, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_layer_norm_over_channels_between_the_upsamplings():
    neck = PyramidNeck(PyramidNeckConfig(in_channels=[6], norm="layer_norm", norm_eps=1e-6)).eval()
    first, norm, _, last = neck.upsample_4x
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 3, 4)
    between = first(x)
    centred = between - between.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    normed = normed * norm.weight.view(1, 6, 1, 1) + norm.bias.view(1, 6, 1, 1)
    torch.testing.assert_close(neck([x])[0], last(F.gelu(normed)))
