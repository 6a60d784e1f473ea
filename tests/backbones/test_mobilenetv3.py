"""What MobileNetV3 has beyond the contract: stride 8, dilations, uneven padding, widths of the squeeze."""

import pytest
import torch
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import MobileNetV3Backbone, MobileNetV3Config
from segzoo.backbones.mobilenetv3 import pad_as_tensorflow, squeezed_channels
from segzoo.errors import SegZooError
from segzoo.heads import LRASPPHeadConfig


@pytest.mark.parametrize(
    ("arch", "channels", "strides"), [("large", [16, 24, 960], [2, 4, 8]), ("small", [16, 16, 576], [2, 4, 8])]
)
def test_the_published_maps(arch, channels, strides):
    with torch.device("meta"):
        model = MobileNetV3Backbone(MobileNetV3Config(arch=arch))
        maps = model(torch.empty(1, 3, 385, 401)).feature_maps
    assert [x.shape[1] for x in maps] == model.channels == channels
    assert [tuple(x.shape[2:]) for x in maps] == [(-(385 // -s), -(401 // -s)) for s in strides]


@pytest.mark.parametrize(
    ("arch", "expected"), [("large", [1] * 6 + [2] * 6 + [4] * 3), ("small", [1] * 3 + [2] * 5 + [4] * 3)]
)
def test_dilations(arch, expected):
    with torch.device("meta"):
        model = MobileNetV3Backbone(MobileNetV3Config(arch=arch))
    blocks = [stage for stage in model.stages if hasattr(stage, "depthwise")]
    found = [block.depthwise.conv.dilation[0] for block in blocks]
    assert [1 if block.strided else dilation for block, dilation in zip(blocks, found, strict=True)] == expected
    for block in blocks:
        kernel, dilation = block.kernel, block.depthwise.conv.dilation[0]
        assert block.depthwise.conv.padding[0] == (0 if block.strided else dilation * (kernel // 2))


@pytest.mark.parametrize("reduction", [1, 2])
def test_blocks_that_halve_the_map_in_classification_have_no_shortcut(reduction):
    """Also where fewer channels give the ninth block as many as its input has, as in the original."""
    with torch.device("meta"):
        model = MobileNetV3Backbone(MobileNetV3Config(arch="small", reduction_factor=reduction))
    assert [i for i, stage in enumerate(model.stages, start=1) if getattr(stage, "adds", False)] == [
        3,
        5,
        6,
        8,
        10,
        11,
    ]
    assert model.num_features[8:10] == [48, 96 // reduction]


@pytest.mark.parametrize(("kernel", "size", "pads"), [(3, 8, (0, 1)), (3, 7, (1, 1)), (5, 8, (1, 2)), (5, 7, (2, 2))])
def test_padding_of_strided_convolutions(kernel, size, pads):
    """The sizes and sides of TensorFlow's "same"."""
    x = torch.randn(1, 1, size, size)
    padded = pad_as_tensorflow(x, kernel)
    assert torch.equal(padded, F.pad(x, pads * 2))
    assert F.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=2).shape[-1] == -(size // -2)


def test_widths_of_the_squeeze():
    assert [squeezed_channels(c) for c in (16, 72, 96, 120, 240, 480, 672, 960)] == [8, 24, 24, 32, 64, 120, 168, 240]


def lraspp(**options):
    head = LRASPPHeadConfig(**{"channels": 16, "branch_channels": [4, 8], **options})
    return SegZooForSemanticSegmentation(
        SegZooConfig.from_backbone(MobileNetV3Config.tiny(), head, num_labels=3)
    ).eval()


@torch.no_grad()
def test_the_head_weights_its_projection_by_means_of_windows():
    model = lraspp(pool_size=5, pool_stride=[2, 3])
    maps, head = model.forward_maps(torch.randn(1, 3, 65, 97))[0], model.decode_heads[0]
    last = maps[-1]
    means = [
        [last[..., y : y + 5, x : x + 5].mean((-2, -1)) for x in range(0, last.shape[-1] - 4, 3)]
        for y in range(0, last.shape[-2] - 4, 2)
    ]
    means = torch.stack([torch.stack(row, dim=-1) for row in means], dim=-2)
    torch.testing.assert_close(head.pool(last), means)
    assert model(torch.randn(1, 3, 65, 97)).logits.shape == (1, 3, 33, 49)


def test_pictures_that_are_too_small_are_told_the_smallest_size():
    model = lraspp()
    with torch.no_grad():
        model(torch.randn(1, 3, 385, 385))
        with pytest.raises(SegZooError, match=r"49x49 do not fit into the last map, 48x49; .* 385 pixels at least"):
            model(torch.randn(1, 3, 384, 385))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MobileNetV3Config(reduction_factor=0), "reduction_factor=0"),
        (lambda: LRASPPHeadConfig(branch_channels=[]), "one at least"),
        (lambda: LRASPPHeadConfig(pool_stride=[16]), "two numbers"),
        (lambda: LRASPPHeadConfig(pool_size=0), "must be 1 at least"),
        (lambda: LRASPPHeadConfig(in_channels=[8, 8], in_index=[0, 1]), "one map more"),
    ],
)
def test_options_that_do_not_fit(make, words):
    with pytest.raises(SegZooError, match=words):
        make()
