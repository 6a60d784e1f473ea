"""Mask2Former and MaskFormer of mmsegmentation 1.x: keys in mmdet 3's spelling, logits at the images' size, losses of every layer."""

from itertools import count
from pathlib import Path

import pytest
import torch
from parity import synthesis
from parity.test_parity import convert, relative_error

RECORDS = sorted((Path(__file__).parent / "queries").glob("*.json"))
FAST = ("mask2former_r50_8xb2-90k_cityscapes-512x1024", "maskformer_r50-d32_8xb2-160k_ade20k-512x512")


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=() if path.stem in FAST else pytest.mark.slow) for path in RECORDS]
)
@torch.no_grad()
def test_logits_at_the_images_size_and_losses(path):
    record, tensors, model = convert(path)
    assert model.config.decode_head_configs[0].resize_masks_first
    (head,), outputs = model.decode_heads, {}
    for case in record["cases"]:
        pixels = synthesis.image(case["input"], case["shape"]).double()
        outputs[case["input"]] = output = head(model.forward_maps(pixels)[0])
        logits = head.image_logits(output, pixels.shape[-2:])
        assert logits.shape[-2:] == pixels.shape[-2:]
        assert relative_error(logits, case["logits"], tensors) < record["tolerance"]

    losses, numbers = record["losses"], count()
    output, size = outputs[losses["input"]], losses["input_shape"][-2:]
    labels = synthesis.labels(losses["labels"], [1, *size], model.config.num_labels, losses["block"])

    def draw(shape):
        source = synthesis.random_source(losses["draws"].format(next(numbers)))
        return torch.from_numpy(source.random(shape)).float()

    (loss,) = head.losses
    found = loss.parts(output.auxiliary_predictions, output.mask_features, labels, draw=draw)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(losses["values"], rel=1e-6)
