"""What every registered backbone must do, alone and in a model with an FCN head."""

import pytest
import torch
import transformers
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from support.contract import (
    SIZES,
    assert_close,
    assert_config_round_trip,
    assert_gradients,
    assert_same_state,
    settle,
)
from support.odd_backbones import ODD_BACKBONES
from support.versions import SEGFORMER_CHECKPOINTS, whole_graph
from torch import nn
from transformers import AutoConfig, AutoModelForSemanticSegmentation
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo import AutoBackbone, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES
from segzoo.backbones.base import is_token
from segzoo.backbones.hrnet import HRNetExchange
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig
from segzoo.images.resizing import round_up
from segzoo.layers import DropPath

ALL = BACKBONES | ODD_BACKBONES
# One of a family is compiled with every run of the tests: conv blocks, plain ViTs, operators of our own.
ALWAYS_COMPILED = ("segzoo_resnet", "segzoo_vit", "segzoo_internimage")

# Batch norms of pooled maps whose bias the norm behind them takes away again.
WITHOUT_GRADIENT = {"segzoo_bisenetv2": ("context.norm.bias",)}

# What the originals draw depthwise kernels of C channels and k numbers each with: sqrt(2 / k), or, with the outputs of all
# groups counted, sqrt(2 / (C * k)); torch's own draw; or one number.
BY_GROUP, BY_ALL, AS_TORCH = (
    lambda conv: (2 / conv.weight[0].numel()) ** 0.5,
    lambda conv: (2 / conv.weight.numel()) ** 0.5,
    lambda conv: (1 / 3 / conv.weight[0].numel()) ** 0.5,
)
DEPTHWISE_DRAWS = {
    "segzoo_bisenetv2": BY_ALL,
    "segzoo_cgnet": BY_ALL,
    "segzoo_convnext": lambda conv: 0.02,
    "segzoo_fast_scnn": BY_ALL,
    "segzoo_internimage": AS_TORCH,
    "segzoo_mit": BY_GROUP,
    "segzoo_mobilenetv2": BY_ALL,
    "segzoo_mobilenetv3": BY_ALL,
    "segzoo_mscan": BY_GROUP,
    "segzoo_stage_encoder": lambda conv: 0.02,  # transformers' own
    "segzoo_stdc": BY_ALL,
    "segzoo_stdcnet": BY_ALL,
    "segzoo_twins": BY_GROUP,
    "segzoo_van": BY_GROUP,
    "segzoo_vit_adapter": BY_GROUP,
}

every_backbone = pytest.mark.parametrize("model_type", sorted(ALL))


def build(model_type, **options):
    config = ALL[model_type].config.tiny()
    for name, value in options.items():
        setattr(config, name, value)
    return settle(AutoBackbone.from_config(config)).eval()


def images(*shape, channels=3):
    return torch.randn(*shape[:1], channels, *shape[1:])


@every_backbone
def test_registered(model_type):
    entry = ALL[model_type]
    assert entry.config.model_type == model_type
    assert isinstance(AutoConfig.for_model(model_type), entry.config)
    assert type(transformers.AutoBackbone.from_config(entry.config.tiny())) is entry.model


@every_backbone
def test_config_round_trip(model_type, tmp_path):
    config = ALL[model_type].config.tiny()
    assert_config_round_trip(config, tmp_path / "default")
    config.out_features = config.stage_names[::2]
    assert_config_round_trip(config, tmp_path / "chosen")


@every_backbone
def test_unknown_option_is_named(model_type):
    with pytest.raises(SegZooError, match="no_such_option"):
        ALL[model_type].config(no_such_option=1)


@every_backbone
def test_save_and_load_alone(model_type, tmp_path):
    model = build(model_type)
    model.save_pretrained(tmp_path)
    loaded = AutoBackbone.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert_same_state(model, loaded)
    x = images(1, 64, 64)
    for a, b in zip(model(x).feature_maps, loaded(x).feature_maps, strict=True):
        assert_close(b, a)


@every_backbone
def test_in_a_model_with_an_fcn_head(model_type, tmp_path):
    config = SegZooConfig.from_backbone(ALL[model_type].config.tiny(), FCNHeadConfig(channels=8), num_labels=5)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    x, labels = images(2, 64, 96), torch.randint(0, 5, (2, 64, 96))
    output = model(x, labels=labels)
    assert output.logits.shape[:2] == (2, 5)
    assert set(output.losses) == {"decode_0.cross_entropy", "auxiliary_0.cross_entropy"}
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert_same_state(model, loaded)
    assert_close(loaded(x).logits, output.logits)


@every_backbone
@pytest.mark.parametrize("size", SIZES)
def test_maps_have_the_promised_channels(model_type, size):
    model = build(model_type)
    names = model.stage_names
    assert model.out_features == model.config.default_out_features
    multiple = ALL[model_type].config.tiny().size_multiple
    size = [round_up(side, multiple) for side in size]
    pictures = images(2, *size)
    before = torch.get_rng_state()
    with torch.no_grad():
        output = model(pictures, output_hidden_states=True)
    assert torch.equal(torch.get_rng_state(), before), "results depend on what else draws random numbers"
    assert [m.shape[1] for m in output.feature_maps] == model.channels
    assert [h.shape[1] for h in output.hidden_states] == [model.out_feature_channels[name] for name in names]
    assert all(torch.isfinite(m).all() for m in (*output.feature_maps, *output.hidden_states))
    for name, state in zip(names, output.hidden_states, strict=True):
        assert (state.shape[2:] == (1, 1)) == is_token(name), name


@every_backbone
def test_out_features_choose_maps(model_type):
    model = build(model_type)
    x, names = images(1, 64, 64), model.stage_names
    model.out_features = list(names)
    everything = dict(zip(names, model(x).feature_maps, strict=True))
    for chosen in (*([name] for name in names), names[::2], names[-2:]):
        model.out_features = chosen
        for name, x_map in zip(chosen, model(x).feature_maps, strict=True):
            assert torch.equal(x_map, everything[name])


@every_backbone
def test_batch_equals_single(model_type):
    model, x = build(model_type), images(3, 64, 96)
    with torch.no_grad():
        together = model(x).feature_maps
        for i in range(3):
            for a, b in zip(together, model(x[i : i + 1]).feature_maps, strict=True):
                assert_close(a[i : i + 1], b)


@every_backbone
def test_other_numbers_of_channels(model_type):
    model = build(model_type, num_channels=5)
    maps = model(images(1, 64, 64, channels=5)).feature_maps
    assert [m.shape[1] for m in maps] == model.channels


@pytest.mark.parametrize("model_type", sorted(BACKBONES))
def test_depthwise_kernels_begin_as_the_originals(model_type):
    torch.manual_seed(0)
    model = AutoBackbone.from_config(BACKBONES[model_type].config.tiny())
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    draw = DEPTHWISE_DRAWS.get(model_type)
    assert bool(depthwise) == (draw is not None), "a new kind of backbone needs a line in the table"
    if depthwise:
        kernels = torch.cat([(conv.weight / draw(conv)).flatten() for conv in depthwise])
        assert kernels.std().item() == pytest.approx(1, rel=0.1)


@every_backbone
def test_gradients_reach_every_parameter(model_type):
    model = build(model_type).train()
    sum((m * torch.randn_like(m)).sum() for m in model(images(2, 64, 96)).feature_maps).backward()
    assert_gradients(model, WITHOUT_GRADIENT.get(model_type, ()))


@every_backbone
def test_gradient_checkpointing_changes_nothing(model_type):
    if model_type == "segzoo_stage_encoder" and not SEGFORMER_CHECKPOINTS:
        pytest.skip("this version of transformers has no gradient checkpointing in SegFormer")
    x = images(2, 64, 64)
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = build(model_type).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        maps = model(x).feature_maps
        sum(m.square().mean() for m in maps).backward()
        results.append((maps, [p.grad for p in model.parameters()], [b.clone() for b in model.buffers()]))
    for plain, checkpointed in zip(*results, strict=True):
        for a, b in zip(plain, checkpointed, strict=True):
            assert_close(b.double(), a.double())


@every_backbone
def test_bfloat16_autocast(model_type):
    model, x = build(model_type), images(1, 64, 64)
    with torch.no_grad():
        full = model(x).feature_maps
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(x).feature_maps
    for a, b in zip(half, full, strict=True):
        assert float((a.float() - b).square().mean().sqrt()) < 0.05 * float(b.square().mean().sqrt()) + 1e-3


@whole_graph
@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=() if name in ALWAYS_COMPILED else pytest.mark.slow)
        for name in (*ALWAYS_COMPILED, *sorted(ALL.keys() - set(ALWAYS_COMPILED)))
    ],
)
def test_compiles_as_one_graph(model_type):
    torch.compiler.reset()  # backbones share a forward, and one forward is compiled a limited number of times
    model, x = build(model_type), images(1, 64, 64)
    with torch.no_grad():
        expected = model(x).feature_maps
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x).feature_maps
    for a, b in zip(compiled, expected, strict=True):
        assert_close(a, b)


@whole_graph
@pytest.mark.slow
@every_backbone
def test_inductor_forward_and_backward(model_type):
    torch.compiler.reset()
    model, x = build(model_type).train(), images(2, 64, 64)
    torch.manual_seed(4)
    maps = model(x).feature_maps
    expected = maps[-1].detach()
    sum(m.square().mean() for m in maps).backward()
    in_eager = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, options={"fallback_random": True})  # drop path draws as in eager
    torch.manual_seed(4)
    maps = compiled(x).feature_maps
    assert_close(maps[-1], expected, 1e-3)  # batch norms of few values enlarge the rounding
    sum(m.square().mean() for m in maps).backward()
    dropped = [name for name, gradient in in_eager.items() if not gradient.any()]  # blocks of the drop path
    assert_gradients(model, (*dropped, *WITHOUT_GRADIENT.get(model_type, ())))


@pytest.mark.parametrize("model_type", sorted(BACKBONES))
def test_blocks_that_are_never_divided(model_type):
    """Those named exist, hold every residual branch, and are what accelerate's FSDP2 shards one by one."""
    if model_type == "segzoo_stage_encoder" and not SEGFORMER_CHECKPOINTS:
        pytest.skip("this version of transformers names no blocks in SegFormer")
    model = build(model_type)
    named = set(model._no_split_modules)
    whole = {name: module for name, module in model.named_modules() if type(module).__name__ in named}
    assert named and {type(module).__name__ for module in whole.values()} == named
    residual = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (GradientCheckpointingLayer, HRNetExchange))
        or any(isinstance(child, DropPath) for child in module.children())
    ]
    assert residual
    assert [name for name in residual if not any(f"{name}.".startswith(f"{block}.") for block in whole)] == []
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert {name for name, module in model.named_modules() if wraps(module)} == whole.keys()
