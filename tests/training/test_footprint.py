"""The memory of a training against numbers by hand and against what PyTorch's allocator really gives."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import InternViTConfig, ResNetConfig
from segzoo.conversion.plan import build_without_weights
from segzoo.heads import FCNHeadConfig, Mask2FormerHeadConfig
from segzoo.training.footprint import Setup, training_footprint
from segzoo.training.recipes.recipe import Recipe

SIZE = (56, 84)


def config(backbone=InternViTConfig, head=None, **options):
    head = head or FCNHeadConfig(in_index=[-1], channels=8, dropout=0.0)
    return SegZooConfig.from_backbone(backbone.tiny(), head, auxiliary=False, num_labels=3, **options)


def footprint(recipe=None, made=None, **setup):
    setup = Setup(**{"size": SIZE, "batch_size": 2, **setup})
    return training_footprint(build_without_weights(made or config()), recipe or Recipe(), setup)


# Width 16, 4 blocks, patches of 14 pixels in a grid of 4 x 6, MLP of 32; a head of 8 channels for 3 classes.
BLOCK = 2 * 16 + 3 * 16 * 16 + 16 * 16 + 16 + 2 * 16 + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 16
BACKBONE = (3 * 14 * 14 * 16 + 16) + 16 + 25 * 16 + 4 * BLOCK


def test_parameters_gradients_and_optimizer_by_hand():
    model = build_without_weights(config())
    head = sum(p.numel() for part in (model.neck, model.decode_heads) for p in part.parameters())
    assert sum(p.numel() for p in model.backbone.parameters()) == BACKBONE
    buffers = sum(b.nbytes for b in model.buffers())
    full = footprint()
    assert full.parameters == 4 * (BACKBONE + head) + buffers
    assert (full.gradients, full.optimizer) == (4 * (BACKBONE + head), 8 * (BACKBONE + head))
    assert full.communication == 0 and full.has_loss
    assert full.total == 16 * (BACKBONE + head) + buffers + full.activations

    sgd = footprint(Recipe(optimizer="sgd"), world_size=2)
    assert sgd.optimizer == sgd.gradients == sgd.communication == full.gradients
    assert footprint(Recipe(optimizer="sgd", momentum=0.0, ema_decay=0.9)).optimizer == full.parameters

    frozen = footprint(Recipe(freeze_backbone=True))
    assert frozen.parameters == full.parameters and frozen.gradients == 4 * head and frozen.optimizer == 8 * head
    assert frozen.activations < 0.8 * full.activations
    assert footprint(gradient_checkpointing=True).activations < 0.8 * full.activations
    large = {"size": (224, 336)}  # the weights' copies are few then; the loss is in float32 all the same
    assert footprint(precision="bf16", **large).activations < 0.98 * footprint(**large).activations


def test_a_part_of_each_parameter_under_fsdp():
    """First dimensions are divided; a class token and the positions have one row, which the first process has."""
    model, full = build_without_weights(config()), footprint()
    rest = 16 + 25 * 16  # class token, positions
    rows = [p for p in model.parameters() if p.shape[0] % 2]
    odd = sum(p.numel() - p.numel() // p.shape[0] * -(-p.shape[0] // 2) for p in rows)
    total = sum(p.numel() for p in model.parameters())
    even = total - sum(p.numel() for p in rows)
    found = footprint(world_size=2, sharding="fsdp")
    share = even // 2 + sum(p.numel() for p in rows) - odd
    assert share >= total // 2 and share - total // 2 <= rest
    assert found.gradients == 4 * share and found.optimizer == 8 * share
    assert found.parameters == full.parameters - 4 * (total - share)
    assert found.communication == 4 * (total - 2 * BLOCK)  # of four blocks, two are together at a time
    assert footprint(world_size=2, sharding="fsdp", precision="bf16").communication == 2 * (total - 2 * BLOCK)


def measured(made, recipe, size, batch):
    """The largest number of bytes that PyTorch gave out in a step, beyond weights and gradients."""
    model = SegZooForSemanticSegmentation(made)
    if recipe.freeze_backbone:
        model.freeze_backbone()
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        images, labels = torch.randn(batch, 3, *size), torch.randint(0, 3, (batch, *size))
        model(images, labels=labels).loss.backward()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


FACTOR = 1.3


@pytest.mark.parametrize(("backbone", "frozen"), [(ResNetConfig, False), (InternViTConfig, True)])
def test_activations_are_within_a_factor_of_the_measured(backbone, frozen):
    made, recipe, size = config(backbone), Recipe(freeze_backbone=frozen), (224, 336)
    found = footprint(recipe, made, size=size, batch_size=2).activations
    real = measured(made, recipe, size, 2)
    assert real / FACTOR < found < real * FACTOR, (found, real)


@pytest.mark.slow
def test_a_loss_that_needs_values_is_left_out_and_said():
    made = config(ResNetConfig, Mask2FormerHeadConfig.tiny())
    assert not footprint(made=made, size=(64, 64)).has_loss
