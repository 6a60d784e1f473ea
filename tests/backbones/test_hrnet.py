"""What HRNet has beyond the contract: variants, exchanges between branches, sizes that do not divide."""

import pytest
import torch

from segzoo.backbones import HRNetBackbone, HRNetConfig
from segzoo.backbones.hrnet import VARIANTS, HRNetExchange
from segzoo.errors import SegZooError
from segzoo.training.layer_depths import layer_depths

# Of the encoders alone; the first three were counted in the originals' state dicts (W48 is MIT's).
PARAMETERS = {"hrnet_w18_small": 3_860_720, "hrnet_w18": 9_562_260, "hrnet_w48": 65_325_120}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants(name):
    config = HRNetConfig(**VARIANTS[name])
    with torch.device("meta"):
        model = HRNetBackbone(config)
        maps = model(torch.empty(1, 3, 96, 160)).feature_maps
    width = int(name.split("_")[1].removeprefix("w"))
    assert [tuple(m.shape[1:]) for m in maps] == [(width * 2**i, 24 // 2**i, 40 // 2**i) for i in range(4)]
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_every_branch_hears_every_other():
    exchange = HRNetExchange(HRNetConfig(width=4), 3).eval()
    maps = [torch.randn(1, 4 * 2**i, 16 // 2**i, 24 // 2**i, requires_grad=True) for i in range(3)]
    for fused in exchange(maps):
        gradients = torch.autograd.grad(fused.sum(), maps, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize(("size", "same"), [((64, 96), True), ((75, 109), False)])
def test_the_two_ways_to_upsample_agree_on_multiples_of_32(size, same):
    torch.manual_seed(0)
    model = HRNetBackbone(HRNetConfig.tiny()).eval()
    at_once = HRNetBackbone(HRNetConfig(**{**HRNetConfig.tiny().to_diff_dict(), "upsample_by_factor": False})).eval()
    at_once.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        pairs = zip(model(x).feature_maps, at_once(x).feature_maps, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) is same


def test_depths_rise_from_the_stem_to_the_last_module():
    model = HRNetBackbone(HRNetConfig(**VARIANTS["hrnet_w18_small"]))
    depths, count = layer_depths(model)
    assert count == 1 + 2 + (1 + 3 + 2), "the stem, two bottlenecks, and the modules"
    assert list(depths.values()) == sorted(depths.values()) and set(depths.values()) == set(range(count))


@pytest.mark.parametrize(
    ("options", "words"), [({"modules": [1, 4]}, "three entries"), ({"stem_blocks": 0}, "at least 1")]
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        HRNetConfig(**options)
