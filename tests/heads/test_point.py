"""PointRend's head: which pixels are corrected, what trains it, and half precision."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, HeadOutput, PointHead, PointHeadConfig
from segzoo.heads.point import certainty


def build(**options):
    torch.manual_seed(0)
    config = PointHeadConfig(**{"in_channels": [8], "channels": 16, "num_labels": 4} | options)
    return settle(PointHead(config)).eval()


def by_definition(head, x, coarse):
    """The refinement, pixel by pixel."""
    config, logits = head.config, coarse
    for _ in range(config.subdivision_steps):
        logits = F.interpolate(logits, scale_factor=config.scale_factor, mode="bilinear").clone()
        highest, second = logits.sort(dim=1, descending=True).values.unbind(1)[:2]
        least = sorted((d.item(), i) for i, d in enumerate((highest - second)[0].flatten()))
        height, width = logits.shape[-2:]
        for _, i in least[: config.subdivision_num_points]:
            place = torch.tensor([(i % width + 0.5) / width, (i // width + 0.5) / height], dtype=x.dtype) * 2 - 1
            fine, earlier = (F.grid_sample(y, place.view(1, 1, 1, 2), align_corners=False) for y in (x, coarse))
            y = torch.cat([fine, earlier], 1)
            for layer in head.layers:
                y = layer(y)
                if config.coarse_in_each_layer:
                    y = torch.cat([y, earlier], 1)
            logits[:, :, i // width, i % width] = head.classifier(y)[:, :, 0, 0]
    return logits


@torch.no_grad()
@pytest.mark.parametrize("each", [True, False])
def test_the_least_certain_pixels_are_corrected(each):
    head = build(subdivision_num_points=30, coarse_in_each_layer=each).double()
    x, coarse = torch.randn(1, 8, 9, 7).double(), torch.randn(1, 4, 5, 6).double()
    found = head([x], previous=HeadOutput(logits=coarse)).logits
    assert found.shape == (1, 4, 20, 24)
    assert_close(found, by_definition(head, x, coarse), 1e-12)


@torch.no_grad()
def test_fewer_pixels_than_points():
    """Small maps are corrected everywhere, and other scales round sizes down."""
    x, previous = torch.randn(2, 8, 9, 7), HeadOutput(logits=torch.randn(2, 4, 3, 5))
    exact, more = (build(subdivision_num_points=count)([x], previous=previous).logits for count in (12 * 20, 8196))
    assert exact.shape == (2, 4, 12, 20) and torch.equal(exact, more)
    assert build(subdivision_steps=1, scale_factor=1.5)([x], previous=previous).logits.shape == (2, 4, 4, 7)
    assert torch.equal(build(subdivision_steps=0)([x], previous=previous).logits, previous.logits)


def test_points_of_training():
    """Three quarters lie where the head before is least certain; no gradient passes through their choice."""
    head = build(num_points=200, dropout=0.0).train()
    x, coarse = torch.randn(1, 8, 9, 7, requires_grad=True), torch.randn(1, 4, 9, 7, requires_grad=True)
    output = head([x], previous=HeadOutput(logits=coarse))
    assert output.logits is coarse and not output.points.requires_grad
    assert output.points.shape == (1, 200, 2) and output.point_logits.shape == (1, 4, 200)
    sure = certainty(F.grid_sample(coarse, 2 * output.points[:, None] - 1, align_corners=False)[:, :, 0])[0]
    assert sure[:150].max() < sure[150:].max() and sure[:150].mean() < 0.6 * sure[150:].mean()

    labels = torch.randint(0, 4, (1, 18, 14))
    labels[:, :4] = 255
    (loss,) = head.compute_loss(output, labels, 255).values()
    column, row = (output.points[0] * torch.tensor([14, 18])).long().unbind(1)
    nearest = labels[0, row, column]
    losses = F.cross_entropy(output.point_logits[0].T, nearest, ignore_index=255, reduction="sum")
    assert_close(loss, losses / 200)
    loss.backward()
    assert x.grad.abs().max() > 0 and coarse.grad.abs().max() > 0


def test_ratios_of_points():
    head = build(num_points=50, importance_sample_ratio=1.0, oversample_ratio=1.0).train()
    inputs = [torch.randn(2, 8, 4, 4)], HeadOutput(logits=torch.randn(2, 4, 4, 4))
    assert head(inputs[0], previous=inputs[1]).points.shape == (2, 50, 2)
    head.config.importance_sample_ratio = 0.0
    assert head(inputs[0], previous=inputs[1]).points.shape == (2, 50, 2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Places of points are float32's: half precision knows no more than 2048 columns, bfloat16 256."""
    head = build(subdivision_steps=1, subdivision_num_points=10_000).to(dtype)
    x, coarse = torch.randn(1, 8, 6, 300).to(dtype), torch.randn(1, 4, 6, 300).to(dtype)
    found = head([x], previous=HeadOutput(logits=coarse)).logits
    assert found.dtype == dtype
    precise = head.float()([x.float()], previous=HeadOutput(logits=coarse.float())).logits
    assert_close(found.float(), precise, 0.03)


@torch.no_grad()
def test_autocast_chooses_the_same_pixels():
    head = build(subdivision_steps=1, subdivision_num_points=40)
    x, previous = torch.randn(1, 8, 9, 7), HeadOutput(logits=torch.randn(1, 4, 9, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head([x], previous=previous).logits
    assert_close(found, head([x], previous=previous).logits, 0.03)


def test_losses_by_mode():
    """A model in training has losses of points, in evaluation of all pixels; odd sizes, and nothing that counts."""
    heads = FCNHeadConfig(channels=8, in_index=[0]), PointHeadConfig(channels=8, in_index=[0], num_points=64)
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), num_labels=3)
    config.decode_head_configs, config.auxiliary_head_configs = list(heads), []
    model = settle(SegZooForSemanticSegmentation(config))
    images, labels = torch.randn(2, 3, 113, 97), torch.randint(0, 3, (2, 113, 97))
    for training in (True, False):
        output = model.train(training)(images, labels=labels)
        assert output.losses.keys() == {"decode_0.cross_entropy", "decode_1.cross_entropy"}
        assert output.logits.shape[-2:] == ((29, 25) if training else (116, 100))
        assert model(images, labels=torch.full_like(labels, 255)).loss == 0
    assert_close(
        output.losses["decode_1.cross_entropy"],
        F.cross_entropy(F.interpolate(output.logits, (113, 97), mode="bilinear"), labels),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oversample_ratio": 0.5}, "oversample_ratio=0.5"),
        ({"importance_sample_ratio": 1.5}, "importance_sample_ratio=1.5"),
        ({"num_points": 2**21}, "num_points=2097152"),
        ({"subdivision_num_points": 0}, "subdivision_num_points=0"),
        ({"scale_factor": 0.0}, "scale_factor=0.0"),
        ({"subdivision_steps": 7}, "subdivision_steps=7"),
        ({"scale_factor": float("nan")}, "scale_factor=nan"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(SegZooError, match=message):
        PointHeadConfig(**options)


def test_what_comes_before():
    head, x = build(), torch.randn(1, 8, 6, 5)
    with pytest.raises(SegZooError, match="previous=HeadOutput"):
        head([x])
    with pytest.raises(SegZooError, match="4 classes.*logits of 3"):
        head([x], previous=HeadOutput(logits=torch.randn(1, 3, 6, 5)))
