"""BiSeNet V1 and V2 and STDC: what parity records of whole models do not show."""

import pytest
import torch
from support.contract import assert_close, settle
from torch import nn
from torch.nn import functional as F

from segzoo import AutoBackbone
from segzoo.backbones import BiSeNetV1Config, BiSeNetV2Config, ResNetConfig, STDCConfig, STDCNetConfig, SwinConfig
from segzoo.backbones.stdc import STDCBlock
from segzoo.errors import SegZooError


def test_context_path_over_another_encoder():
    """A dict need not repeat the channels; the last three maps are read."""
    config = STDCConfig(
        encoder_config={"model_type": "segzoo_resnet", "depth": 18, "base_channels": 8}, num_channels=4
    )
    assert config.encoder_config.num_channels == 4
    model = AutoBackbone.from_config(config).eval()
    maps = model(torch.randn(1, 4, 65, 97)).feature_maps
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 9, 13), (128, 5, 7), (128, 9, 13), (256, 9, 13)]


@pytest.mark.parametrize(("upsampling", "align_corners"), [("nearest", False), ("bilinear", True), ("bicubic", False)])
def test_context_path_by_hand(upsampling, align_corners):
    config = STDCConfig.tiny()
    config.upsampling, config.align_corners = upsampling, align_corners
    path = settle(AutoBackbone.from_config(config)).eval().context_path
    fine, middle, coarse = torch.randn(1, 16, 9, 13), torch.randn(1, 24, 5, 7), torch.randn(1, 32, 3, 4)
    options = {"mode": upsampling} | ({} if upsampling == "nearest" else {"align_corners": align_corners})

    def refined(i, x):
        x = path.refinements[i].conv(x)
        return x * path.refinements[i].attention(F.adaptive_avg_pool2d(x, 1)).sigmoid()

    mean = path.pooled(F.adaptive_avg_pool2d(coarse, 1))
    at_16 = path.convs[0](F.interpolate(refined(0, coarse) + mean, (5, 7), **options))
    at_8 = path.convs[1](F.interpolate(refined(1, middle) + at_16, (9, 13), **options))
    for found, expected in zip(path(fine, middle, coarse), (at_8, at_16), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_stdc_block_that_adds(stride):
    """No released model has it."""
    config = STDCNetConfig(fusion="add")
    block = settle(STDCBlock(config, 16, 16, stride)).eval()
    x = torch.randn(2, 16, 9, 13)
    first = block.convs[0](x)
    pieces = [first if stride == 1 else block.downsample(first)]
    for conv in list(block.convs)[1:]:
        pieces.append(conv(pieces[-1]))
    assert [piece.shape[1] for piece in pieces] == [8, 4, 2, 2]
    expected = torch.cat(pieces, 1) + (x if stride == 1 else block.skip[1](block.skip[0](x)))
    assert_close(block(x), expected)


def test_sizes_of_stdcs_encoder():
    depths = [[sum(isinstance(m, STDCBlock) for m in stage) for stage in list(model.stages)[1:]] for model in made()]
    assert depths == [[2, 2, 2], [4, 5, 3]]
    (wide,) = [AutoBackbone.from_config(STDCNetConfig(channels=[8, 8, 16, 24, 32], last_conv=True))]
    assert wide.channels == [16, 24, 1024]


def made():
    from segzoo.auto import backbone_variants

    with torch.device("meta"):
        for name in ("stdcnet1", "stdcnet2"):
            yield AutoBackbone.from_config(backbone_variants()[name].variant_config(name))


def test_v2_stages_and_norms():
    model = AutoBackbone.from_config(BiSeNetV2Config.tiny())
    assert [len(stage) for stage in model.stages] == [2, 2, 4]
    assert isinstance(model.context.norm, nn.BatchNorm2d)
    plain = [model.aggregation.detail_keep[1], model.aggregation.semantic_keep[1]]
    assert all(isinstance(m.norm, nn.Identity) and isinstance(m.activation, nn.Identity) for m in plain)
    assert all(m.conv.bias is not None for m in plain)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BiSeNetV1Config(spatial_channels=[8, 8, 8]), "needs an entry for each of 4 layers"),
        (lambda: BiSeNetV1Config(encoder_config=ResNetConfig(out_features=["stage4"])), "reads 3 maps of its encoder"),
        (lambda: BiSeNetV1Config(encoder_config=SwinConfig(num_channels=4)), "num_channels=3, but the encoder's is 4"),
        (
            lambda: STDCConfig(encoder_config={"model_type": "segformer"}),
            "is a SegformerConfig; give the config of a backbone",
        ),
        (lambda: STDCConfig(squeeze=512), "squeeze=512 leaves no channel"),
        (lambda: STDCNetConfig(channels=[8, 8, 16, 24, 36]), "multiples of 8"),
        (lambda: STDCNetConfig(depths=[2, 2]), "3 numbers of at least 1 block"),
        (lambda: STDCNetConfig(depths=[2, 0, 2]), "3 numbers of at least 1 block"),
        (lambda: BiSeNetV2Config(detail_channels=[64, 128]), "one entry more than detail_channels"),
        (lambda: BiSeNetV2Config(semantic_channels=[16, 32, 64, 64]), "end with the same width"),
    ],
)
def test_options_that_do_not_fit(make, words):
    with pytest.raises(SegZooError, match=words):
        make()


def test_one_image_whose_pixels_are_averaged_cannot_be_normalised_in_training():
    for config in (BiSeNetV1Config.tiny(), BiSeNetV2Config.tiny(), STDCConfig.tiny()):
        with pytest.raises(SegZooError, match="batch of at least 2"):
            AutoBackbone.from_config(config).train()(torch.randn(1, 3, 64, 64))
