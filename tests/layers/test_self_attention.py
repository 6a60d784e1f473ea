"""Attention between the pixels of maps."""

import math

import pytest
import torch
from support.contract import assert_close
from torch import nn
from torch.nn import functional as F

from segzoo.layers import SelfAttention, attend
from segzoo.layers.initial import reset_as_torch


@pytest.mark.parametrize(("channels", "width", "scale"), [(3, 7, 1.0), (3, 7, None), (5, 5, None), (7, 3, 0.5)])
def test_the_mean_of_the_values(channels, width, scale):
    query, key = torch.randn(2, channels, 4, 5).double(), torch.randn(2, channels, 6).double()
    value = torch.randn(2, width, 6).double()
    products = torch.einsum("bchw,bcs->bhws", query, key) * (channels**-0.5 if scale is None else scale)
    expected = torch.einsum("bhws,bds->bdhw", products.softmax(-1), value)
    assert_close(attend(query, key, value, scale=scale), expected, 1e-12)


@pytest.mark.parametrize("channels", [8, 32])
def test_the_fused_operator_is_used(channels):
    """On CPUs it wants queries and values of one width; the other way holds all products at once."""
    query, value = torch.randn(1, channels, 6, 6), torch.randn(1, 32, 6, 6)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attend(query, query, value)
    names = {event.key for event in profile.key_averages()}
    assert any("flash_attention" in name for name in names) and "aten::softmax" not in names


def test_layers():
    layers = {name: nn.Conv2d(4, 4, 1).double() for name in ("query", "key", "value", "output")}
    x, source = torch.randn(1, 4, 5, 6).double(), torch.randn(1, 4, 3, 7).double()
    pooled = [
        torch.cat([F.adaptive_avg_pool2d(layers[name](source), side).flatten(2) for side in (1, 2)], dim=2)
        for name in ("key", "value")
    ]
    found = SelfAttention(**layers, pool_scales=(1, 2))(x, source)
    assert_close(found, layers["output"](attend(layers["query"](x), *pooled)), 1e-12)
    shared = SelfAttention(query=layers["query"], value=layers["value"], scaled=False)
    same = layers["query"](x)
    assert_close(shared(x), attend(same, same, layers["value"](x), scale=1.0), 1e-12)
    assert_close(shared(x, source), shared(x, source.clone()), 1e-12)
    assert not torch.equal(shared(x, source), shared(x))


def test_initial_values():
    layers = {name: nn.Conv2d(64, 64, 1) for name in ("query", "key", "value", "output")}
    for layer in layers.values():
        nn.init.constant_(layer.weight, 9.0)
        nn.init.constant_(layer.bias, 9.0)
    SelfAttention(**layers).reset()
    assert not layers.pop("output").weight.any()
    assert all(0.9 / 8 < layer.weight.abs().max() <= 1 / 8 for layer in layers.values())
    wide = nn.Conv2d(4, 8, 3)
    reset_as_torch(wide)
    assert wide.weight.abs().max() <= 1 / math.sqrt(36) and wide.bias.abs().max() <= 1 / math.sqrt(36)
