"""What CGNet has beyond the contract: images inside its maps, and weights of whole channels."""

import pytest
import torch
from torch.nn import functional as F

from segzoo.backbones import CGNetBackbone, CGNetConfig
from segzoo.errors import SegZooError


def test_the_published_network():
    with torch.device("meta"):
        model = CGNetBackbone(CGNetConfig(out_features=["stem", "stage1", "stage2"]))
        maps = model(torch.empty(1, 3, 75, 112)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [(35, 38, 56), (131, 19, 28), (256, 10, 14)]
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-3}
    surrounding = [[block.surrounding.dilation[0] for block in stage] for stage in model.stages]
    assert surrounding == [[2] * 3, [4] * 21]


def test_maps_hold_the_shrunk_images():
    model = CGNetBackbone(CGNetConfig.tiny()).eval()
    model.out_features = ["stem", "stage1"]
    x = torch.rand(1, 3, 64, 64) + 1
    half = F.avg_pool2d(x, 3, stride=2, padding=1)
    quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
    with torch.no_grad():  # new norms and positive values: only the epsilon scales them
        for feature_map, image in zip(model(x).feature_maps, (half, quarter), strict=True):
            torch.testing.assert_close(feature_map[:, -3:], image / (1 + 1e-3) ** 0.5)


def test_new_weights():
    model = CGNetBackbone(CGNetConfig.tiny())
    slopes = [module.weight for module in model.modules() if isinstance(module, torch.nn.PReLU)]
    assert len(slopes) == 3 + 3 + 2 * 4 and all((slope == 0.25).all() for slope in slopes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": [32, 64]}, "needs three entries"),
        ({"blocks": [3]}, "blocks=.* needs an entry for each of two stages"),
        ({"blocks": [3, 0]}, "must be 1 at least"),
        ({"channels": [32, 63, 128]}, "even"),
        ({"reductions": [8, 200]}, "not below reductions"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        CGNetConfig(**options)
