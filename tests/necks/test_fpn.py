import itertools

import pytest
import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.necks import FPNNeck, FPNNeckConfig

SIZES = [(13, 18), (7, 9), (4, 5), (2, 3)]
CHANNELS = [3, 5, 6, 7]


def built(**options):
    neck = FPNNeck(FPNNeckConfig(in_channels=CHANNELS, channels=32, **options)).double().eval()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for module in neck.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    return neck, [torch.randn(2, c, *size, dtype=torch.double) for c, size in zip(CHANNELS, SIZES, strict=True)]


def convolved(x, state, name, *, relu=False, norm=None, **options):
    """A convolution, and its norm and activation if it has them, from a state dict."""
    x = F.conv2d(x, state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias"), **options)
    if norm == "batch_norm":
        values = [state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *values, eps=1e-3)
    elif norm == "group_norm":
        x = F.group_norm(x, 32, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"], 1e-3)
    return x.relu() if relu else x


def pyramid(neck, maps):
    """The maps of the neck, written out."""
    config, state = neck.config, neck.state_dict()
    options = {"norm": config.norm, "relu": config.activation == "relu"}
    used = maps[config.first_map : config.end_map]
    lateral_options = options | ({} if config.norm_lateral else {"norm": None})
    sums = [convolved(x, state, f"lateral_convs.{i}", **lateral_options) for i, x in enumerate(used)]
    for i in range(len(used) - 2, -1, -1):
        kind = {"mode": config.upsampling}
        if config.upsampling == "bilinear":
            kind["align_corners"] = config.align_corners
        sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[2:], **kind)
    out = [convolved(x, state, f"fpn_convs.{i}", padding=1, **options) for i, x in enumerate(sums)]
    source = {"input": used[-1], "lateral": sums[-1], "output": out[-1]}.get(config.extra_convs)
    for i in range(config.extra_maps):
        if source is None:
            out.append(out[-1][:, :, ::2, ::2])
            continue
        source = source.relu() if i and config.activate_extra else source
        source = convolved(source, state, f"extra_convs.{i}", padding=1, stride=2, **options)
        out.append(source)
    return out


OPTIONS = [
    {},
    {"first_map": 1, "end_map": 3},
    {"extra_maps": 2},
    *({"extra_maps": 3, "extra_convs": source, "activate_extra": True} for source in ("input", "lateral", "output")),
    {"first_map": 1, "extra_maps": 2, "extra_convs": "input"},
    *({"norm": norm, "norm_eps": 1e-3, "activation": "relu"} for norm in ("batch_norm", "group_norm")),
    {"norm": "batch_norm", "norm_eps": 1e-3, "norm_lateral": False},
    *({"upsampling": "bilinear", "align_corners": align} for align in (False, True)),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_the_formula(options):
    neck, maps = built(**options)
    with torch.no_grad():
        found, wanted = neck(maps), pyramid(neck, maps)
    assert neck.out_channels == [x.shape[1] for x in found]
    for a, b in itertools.zip_longest(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_wrong_maps_are_named():
    neck, maps = built()
    with pytest.raises(SegZooError, match="built for 4 maps but was given 3"):
        neck(maps[:3])
    for wrong in ({"first_map": 4}, {"first_map": 2, "end_map": 2}, {"end_map": 5}, {"first_map": -1}):
        with pytest.raises(SegZooError, match="first_map"):
            built(**wrong)
    with pytest.raises(SegZooError, match="out of range"):
        FPNNeckConfig(extra_maps=10**5)
