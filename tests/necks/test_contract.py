"""What every registered neck must do."""

import pytest
import torch
from support.contract import (
    assert_close,
    assert_config_round_trip,
    assert_gradients,
    assert_same_state,
    settle,
)
from transformers import AutoConfig

from segzoo import AutoNeck
from segzoo.auto import NECKS
from segzoo.errors import SegZooError

pytestmark = pytest.mark.parametrize("model_type", sorted(NECKS))


def build(model_type):
    return settle(AutoNeck.from_config(NECKS[model_type].config.tiny())).eval()


def maps(neck, batch=2, size=(6, 8)):
    return [torch.randn(batch, c, *size) for c in neck.config.in_channels]


def test_registered(model_type):
    config_class, model_class = NECKS[model_type].config, NECKS[model_type].model
    assert isinstance(AutoConfig.for_model(model_type), config_class)
    assert type(AutoNeck.from_config(config_class.tiny())) is model_class


def test_config_round_trip(model_type, tmp_path):
    assert_config_round_trip(NECKS[model_type].config.tiny(), tmp_path)


def test_needs_channels(model_type):
    with pytest.raises(SegZooError, match="in_channels"):
        AutoNeck.from_config(NECKS[model_type].config())


def test_save_and_load_alone(model_type, tmp_path):
    neck = build(model_type)
    neck.save_pretrained(tmp_path)
    assert_same_state(neck, AutoNeck.from_pretrained(tmp_path))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_maps_have_the_promised_channels(model_type, size):
    neck = build(model_type)
    assert [m.shape[1] for m in neck(maps(neck, size=size))] == neck.out_channels


def test_batch_equals_single(model_type):
    neck = build(model_type)
    features = maps(neck, 3)
    with torch.no_grad():
        together = neck(features)
        for i in range(3):
            for a, b in zip(together, neck([m[i : i + 1] for m in features]), strict=True):
                assert_close(a[i : i + 1], b)


def test_gradients_reach_every_parameter(model_type):
    neck = build(model_type).train()
    sum((m * torch.randn_like(m)).sum() for m in neck(maps(neck))).backward()
    # A convolution's bias in front of a batch norm has no effect while training; its gradient is numerical noise.
    assert_gradients(neck)


def test_compiles_as_one_graph(model_type):
    neck = build(model_type)
    features = maps(neck)
    with torch.no_grad():
        compiled = torch.compile(neck, backend="aot_eager", fullgraph=True)(features)
        for a, b in zip(compiled, neck(features), strict=True):
            assert_close(a, b)
