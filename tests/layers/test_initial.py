"""Layers that the originals leave as torch draws them."""

import pytest
import torch
from torch import nn

from segzoo.backbones.erfnet import ERFNetBackbone, ERFNetConfig
from segzoo.heads.apcnet import APCHead, APCHeadConfig
from segzoo.heads.dmnet import DMHead, DMHeadConfig
from segzoo.heads.dpt import DPTHead, DPTHeadConfig
from segzoo.heads.lraspp import LRASPPHead, LRASPPHeadConfig
from segzoo.necks import PyramidNeck, PyramidNeckConfig


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (lambda: ERFNetBackbone(ERFNetConfig.tiny()), lambda model: model.modules()),
        (lambda: APCHead(APCHeadConfig.tiny()), lambda model: [context.affinity for context in model.contexts]),
        (lambda: DMHead(DMHeadConfig.tiny()), lambda model: [context.filter_conv for context in model.contexts]),
        (lambda: DPTHead(DPTHeadConfig.tiny()), lambda model: model.resize_layers),
        (lambda: LRASPPHead(LRASPPHeadConfig.tiny()), lambda model: [model.input_conv, *model.branches]),
        (lambda: PyramidNeck(PyramidNeckConfig.tiny()), lambda model: model.modules()),
    ],
    ids=["erfnet", "apcnet", "dmnet", "dpt", "lraspp", "pyramid"],
)
def test_layers_begin_as_torch_draws_them(build, layers):
    torch.manual_seed(0)
    convs = [layer for layer in layers(build()) if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    for kind in {type(conv) for conv in convs}:
        # in units of torch's standard deviation, 1 / sqrt(3 * fan_in)
        weights = [conv.weight * (3 * conv.weight[0].numel()) ** 0.5 for conv in convs if type(conv) is kind]
        assert torch.cat([weight.flatten() for weight in weights]).std().item() == pytest.approx(1, rel=0.15)
