"""What ICNet has beyond the contract: three resolutions, odd sides, its neck, and the ResNet inside."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo import AutoBackbone, SegZooConfig
from segzoo.backbones import ICNetBackbone, ICNetConfig, ResNetConfig
from segzoo.backbones.icnet import VARIANTS
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig
from segzoo.necks import ICNeckConfig


@pytest.mark.parametrize(("name", "millions"), [("icnet_r18", 23.9), ("icnet_r50", 47.0)])
def test_variants(name, millions):
    with torch.device("meta"):
        model = ICNetBackbone(ICNetConfig(**VARIANTS[name])).eval()
        maps = model(torch.empty(1, 3, 256, 384)).feature_maps
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 32, 48), (256, 17, 25), (256, 8, 12)]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_branches_read_halves(align_corners):
    config = ICNetConfig.tiny()
    config.align_corners = align_corners
    model = settle(ICNetBackbone(config)).eval()
    x = torch.randn(1, 3, 75, 109)
    full, half, quarter = model(x).feature_maps
    assert_close(full, model.full_convs(x))
    resnet, options = model.resnet, {"mode": "bilinear", "align_corners": align_corners}
    y = resnet.stem(F.interpolate(x, scale_factor=0.5, **options))
    assert y.shape[2:] == (19, 27)
    y = F.max_pool2d(y, 3, stride=2, padding=1, ceil_mode=True)
    y = resnet.stages[1](resnet.stages[0](y))
    assert_close(half, model.half_conv(y))
    y = resnet.stages[3](resnet.stages[2](F.interpolate(y, scale_factor=0.5, **options)))
    size = y.shape[2:]
    grids = [
        F.interpolate(project(F.adaptive_avg_pool2d(y, side)), size, **options)
        for project, side in zip(model.pyramid, (1, 2, 3, 6), strict=True)
    ]
    fusion = model.context_conv
    joined = fusion.conv(torch.cat([*grids, y], dim=1))
    assert_close(quarter, model.quarter_conv(fusion.activation(fusion.norm(joined))))


def test_even_maps_of_the_pool_keep_their_last_column():
    with torch.device("meta"):
        model = ICNetBackbone(ICNetConfig.tiny())
        assert model.resnet.pool(torch.empty(1, 8, 20, 28)).shape[2:] == (11, 15)


def test_a_model_around_it_has_its_neck():
    config = SegZooConfig.from_backbone(ICNetConfig.tiny(), FCNHeadConfig(channels=8), num_labels=3)
    assert isinstance(config.neck_config, ICNeckConfig)


def test_the_config_is_whole_after_loading(tmp_path):
    config = ICNetConfig(resnet_config={"depth": 18, "base_channels": 8}, num_channels=4)
    assert isinstance(config.resnet_config, ResNetConfig) and config.resnet_config.num_channels == 4
    config.save_pretrained(tmp_path)
    assert ICNetConfig.from_pretrained(tmp_path).resnet_config.base_channels == 8
    assert ICNetConfig().to_dict() == ICNetConfig(**VARIANTS["icnet_r50"]).to_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resnet_config": {"num_stages": 3, "strides": [1, 2, 1], "dilations": [1, 1, 1]}}, "four stages"),
        ({"resnet_config": {"model_type": "segzoo_hrnet"}}, "of a ResNet"),
        ({"resnet_config": {"num_channels": 1}}, "num_channels=3, but the ResNet's is 1"),
        ({"channels": [8, 8]}, "must be three"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        ICNetConfig(**options)


def test_pictures_that_are_too_small():
    model = AutoBackbone.from_config(ICNetConfig.tiny()).eval()
    with pytest.raises(SegZooError, match="give larger images"):
        model(torch.randn(1, 3, 8, 64))
