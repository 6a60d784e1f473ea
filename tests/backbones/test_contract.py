"""What every registered backbone must do."""

import pytest
import torch
import transformers
from support.contract import (
    SIZES,
    assert_close,
    assert_config_round_trip,
    assert_gradients,
    assert_same_state,
    settle,
)
from transformers import AutoConfig

from segzoo import AutoBackbone
from segzoo.auto import BACKBONES
from segzoo.errors import SegZooError

pytestmark = pytest.mark.parametrize("model_type", sorted(BACKBONES))


def build(model_type, **options):
    config_class, _ = BACKBONES[model_type]
    config = config_class.tiny()
    for name, value in options.items():
        setattr(config, name, value)
    return settle(AutoBackbone.from_config(config)).eval()


def images(*shape, channels=3):
    return torch.randn(*shape[:1], channels, *shape[1:])


def test_registered(model_type):
    config_class, model_class = BACKBONES[model_type]
    assert config_class.model_type == model_type
    assert isinstance(AutoConfig.for_model(model_type), config_class)
    assert type(transformers.AutoBackbone.from_config(config_class.tiny())) is model_class


def test_config_round_trip(model_type, tmp_path):
    config = BACKBONES[model_type][0].tiny()
    config.out_features = ["stage2", "stage4"]
    assert_config_round_trip(config, tmp_path)


def test_unknown_option_is_named(model_type):
    with pytest.raises(SegZooError, match="no_such_option"):
        BACKBONES[model_type][0](no_such_option=1)


def test_save_and_load_alone(model_type, tmp_path):
    model = build(model_type)
    model.save_pretrained(tmp_path)
    loaded = AutoBackbone.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert_same_state(model, loaded)
    x = images(1, 64, 64)
    for a, b in zip(model(x).feature_maps, loaded(x).feature_maps, strict=True):
        assert_close(b, a)


@pytest.mark.parametrize("size", SIZES)
def test_maps_have_the_promised_channels(model_type, size):
    model = build(model_type)
    with torch.no_grad():
        output = model(images(2, *size), output_hidden_states=True)
    assert [m.shape[1] for m in output.feature_maps] == model.channels
    assert len(output.hidden_states) == len(model.stage_names)
    assert all(torch.isfinite(m).all() for m in output.feature_maps)
    heights = [m.shape[2] for m in output.feature_maps]
    assert heights == sorted(heights, reverse=True)


def test_out_features_choose_maps(model_type):
    model = build(model_type)
    x = images(1, 64, 64)
    everything, names = model(x).feature_maps, model.out_features
    model.out_features = [names[1], names[3]]
    chosen = model(x).feature_maps
    assert len(chosen) == 2 and torch.equal(chosen[0], everything[1]) and torch.equal(chosen[1], everything[3])


def test_batch_equals_single(model_type):
    model, x = build(model_type), images(3, 64, 96)
    with torch.no_grad():
        together = model(x).feature_maps
        for i in range(3):
            for a, b in zip(together, model(x[i : i + 1]).feature_maps, strict=True):
                assert_close(a[i : i + 1], b)


def test_other_numbers_of_channels(model_type):
    model = build(model_type, num_channels=5)
    assert len(model(images(1, 64, 64, channels=5)).feature_maps) == 4


def test_gradients_reach_every_parameter(model_type):
    model = build(model_type).train()
    sum((m * torch.randn_like(m)).sum() for m in model(images(2, 64, 96)).feature_maps).backward()
    assert_gradients(model)


def test_gradient_checkpointing_changes_nothing(model_type):
    x = images(2, 64, 64)
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = build(model_type).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        maps = model(x).feature_maps
        sum(m.square().mean() for m in maps).backward()
        results.append((maps, [p.grad for p in model.parameters()], [b.clone() for b in model.buffers()]))
    for plain, checkpointed in zip(*results, strict=True):
        for a, b in zip(plain, checkpointed, strict=True):
            assert_close(b.double(), a.double())


def test_bfloat16_autocast(model_type):
    model, x = build(model_type), images(1, 64, 64)
    with torch.no_grad():
        full = model(x).feature_maps
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(x).feature_maps
    for a, b in zip(half, full, strict=True):
        assert float((a.float() - b).square().mean().sqrt()) < 0.05 * float(b.square().mean().sqrt()) + 1e-3


def test_compiles_as_one_graph(model_type):
    model, x = build(model_type), images(1, 64, 64)
    with torch.no_grad():
        expected = model(x).feature_maps
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x).feature_maps
    for a, b in zip(compiled, expected, strict=True):
        assert_close(a, b)


@pytest.mark.slow
def test_inductor_forward_and_backward(model_type):
    model, x = build(model_type).train(), images(2, 64, 64)
    torch.manual_seed(4)
    expected = model(x).feature_maps[-1]
    compiled = torch.compile(model, fullgraph=True, options={"fallback_random": True})  # drop path draws as in eager
    torch.manual_seed(4)
    maps = compiled(x).feature_maps
    assert_close(maps[-1], expected, 1e-4)
    sum(m.square().mean() for m in maps).backward()
    assert_gradients(model)
