"""Mask2Former of mmsegmentation 1.x: keys in mmdet 3's spelling, logits at the images' size, losses of every layer."""

from itertools import count
from pathlib import Path

import pytest
import torch
from parity import synthesis
from parity.test_parity import convert, relative_error

RECORD = Path(__file__).parent / "mask2former" / "mask2former_r50_cityscapes.json"


@pytest.fixture(scope="module")
def converted():
    return convert(RECORD)


@torch.no_grad()
def test_logits_at_the_images_size(converted):
    record, tensors, model = converted
    assert model.config.decode_head_configs[0].resize_masks_first
    for case in record["cases"]:
        pixels = synthesis.image(case["input"], case["shape"]).double()
        logits = model(pixels).logits
        assert logits.shape[-2:] == pixels.shape[-2:]
        assert relative_error(logits, case["logits"], tensors) < record["tolerance"]


@torch.no_grad()
def test_losses(converted):
    record, _, model = converted
    losses, (head,) = record["losses"], model.decode_heads
    pixels = synthesis.image(losses["input"], losses["input_shape"]).double()
    labels = synthesis.labels(losses["labels"], [1, *pixels.shape[-2:]], model.config.num_labels, losses["block"])
    output = head(model.forward_maps(pixels)[0])
    numbers = count()

    def draw(shape):
        source = synthesis.random_source(losses["draws"].format(next(numbers)))
        return torch.from_numpy(source.random(shape)).float()

    (loss,) = head.losses
    found = loss.parts(output.auxiliary_predictions, output.mask_features, labels, draw=draw)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(losses["values"], rel=1e-6)
