"""Checks that every registered backbone, neck, head and model must pass."""

import torch
from torch import nn

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES, HEADS
from segzoo.heads import FCNHeadConfig

SIZES = [(64, 96), (75, 109), (33, 97)]
# Added to all scores of a softmax, they change nothing: rounding decides whether their gradients are zero.
WITHOUT_EFFECT = ("context.mask.bias",)


@torch.no_grad()
def settle(model: nn.Module) -> nn.Module:
    """Make a fresh model look trained: batch norms have statistics, and nothing that starts at zero still is zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


def assert_config_round_trip(config, tmp_path):
    config.save_pretrained(tmp_path)
    loaded = type(config).from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()


def assert_same_state(model, loaded):
    state, other = model.state_dict(), loaded.state_dict()
    assert list(state) == list(other)
    for key, value in state.items():
        assert torch.equal(value, other[key]), key
    buffers, other_buffers = dict(model.named_buffers()), dict(loaded.named_buffers())
    assert list(buffers) == list(other_buffers)
    for key, value in buffers.items():
        assert torch.equal(value, other_buffers[key]), key


def assert_close(a, b, tolerance=1e-5):
    a, b = a.detach(), b.detach()
    scale = max(float(b.abs().max()), 1e-6)
    assert float((a - b).abs().max()) <= tolerance * scale


def assert_gradients(model, without=()):
    """Every parameter that is not frozen has a finite gradient that is not zero throughout, except where ``without``
    names it.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name} has a gradient that is not finite"
        told = name in without or name.endswith(WITHOUT_EFFECT)
        assert told or parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"


def tiny_composite(backbone: str, head: str) -> SegZooForSemanticSegmentation:
    """A small model of two registered parts, by their ``model_type``; a head that needs another before it gets one."""
    config = HEADS[head].config.tiny()
    config.in_channels = None
    if config.in_index is not None:  # the last map, which every backbone has, and the first one
        config.in_index = [-1, 0, -1][: len(config.in_index)]
    heads = [*([FCNHeadConfig(channels=8)] if config.reads_previous else []), config]
    return SegZooForSemanticSegmentation(
        SegZooConfig(
            backbone_config=BACKBONES[backbone].config.tiny(),
            decode_head_configs=heads,
            auxiliary_head_configs=[FCNHeadConfig(in_index=[0], channels=8)],
            num_labels=4,
        )
    )


def pairs_of_parts() -> list[tuple[str, str]]:
    """Every registered backbone and every decode head once, each with a plain part."""
    heads = [name for name in sorted(HEADS) if HEADS[name].config.tiny().own_outputs is None]
    return [(name, "segzoo_fcn_head") for name in sorted(BACKBONES)] + [("segzoo_resnet", name) for name in heads]
