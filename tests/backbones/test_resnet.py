"""What ResNet has beyond the contract: strides, dilations, stems."""

import pytest
import torch

from segzoo.backbones import ResNetBackbone, ResNetConfig
from segzoo.backbones.resnet import VARIANTS
from segzoo.base import without_weights
from segzoo.errors import SegZooError


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants_have_their_output_stride(name):
    config = ResNetConfig(**VARIANTS[name])
    with without_weights():
        model = ResNetBackbone(config)
    last = model(torch.empty(1, 3, 128, 192, device="meta")).feature_maps[-1]
    stride = int(name.rsplit("_d", 1)[1]) if "_d" in name else 32
    assert last.shape[1:] == (2048 if config.depth >= 50 else 512, 128 // stride, 192 // stride)


@pytest.mark.parametrize(
    "options, stage, dilations",
    [
        (
            {
                "depth": 50,
                **{k: VARIANTS["resnet50_v1c_d8"][k] for k in ("strides", "dilations", "contract_dilation")},
            },
            3,
            [2, 4, 4],
        ),
        ({"depth": 50, "strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]}, 3, [4, 4, 4]),
        ({"depth": 50, "dilations": [1, 1, 1, 2], "contract_dilation": True, "multi_grid": [1, 2, 4]}, 3, [1, 2, 4]),
        ({"depth": 50, "multi_grid": [1, 2, 4]}, 2, [1] * 6),
    ],
)
def test_dilation_of_each_block(options, stage, dilations):
    model = ResNetBackbone(ResNetConfig(base_channels=8, **options))
    assert model.block_dilations(stage) == dilations
    assert [block.conv2.conv.dilation[0] for block in model.stages[stage]] == dilations


def test_grouped_convolutions_have_resnext_widths():
    model = ResNetBackbone(ResNetConfig(depth=50, groups=32, base_width=4))
    convs = [model.stages[s][0].conv2.conv for s in range(4)]
    assert [c.out_channels for c in convs] == [128, 256, 512, 1024] and {c.groups for c in convs} == {32}


def test_stride_on_the_first_convolution():
    block = ResNetBackbone(ResNetConfig(depth=50, downsample_in_bottleneck=True)).stages[1][0]
    assert block.conv1.conv.stride == (2, 2) and block.conv2.conv.stride == (1, 1)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"depth": 49}, "no depth 49"),
        ({"strides": [1, 2]}, "one entry for each of 4 stages"),
        ({"multi_grid": [1, 2]}, "last stage's 3 blocks"),
        ({"depth": 18, "groups": 2}, "bottleneck"),
        ({"num_stages": 5}, "between 1 and 4"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        ResNetConfig(**options)


def test_mit_dilates_both_convolutions_of_basic_blocks():
    model = ResNetBackbone(ResNetConfig(**VARIANTS["resnet18_mit_d8"]))
    found = [[(block.conv1.conv.dilation[0], block.conv2.conv.dilation[0]) for block in s] for s in model.stages]
    assert found == [[(1, 1), (1, 1)], [(1, 1), (1, 1)], [(1, 2), (2, 2)], [(2, 4), (4, 4)]]
    assert [conv.conv.out_channels for conv in model.stem] == [64, 64, 128]
    plain = ResNetBackbone(ResNetConfig(**VARIANTS["resnet18_v1c_d8"]))
    assert {block.conv2.conv.dilation[0] for stage in plain.stages for block in stage} == {1}
