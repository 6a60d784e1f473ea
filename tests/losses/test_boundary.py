"""The boundaries of labels and their loss, pixel by pixel; hard pixels of a whole batch."""

import math

import pytest
import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.losses import BoundaryLoss, CrossEntropyLoss, Ohem, build_loss, class_boundaries


def by_hand(labels, width):
    """As mmsegmentation's ``GenerateEdge``: four neighbours, and a square whose anchor is right of and below its middle."""
    height, length = labels.shape
    found = torch.zeros(height, length, dtype=torch.int64)
    for y in range(height):
        for x in range(length):
            around = [(y - 1, x), (y, x + 1), (y + 1, x + 1), (y + 1, x - 1)]
            inside = [int(labels[j, i]) for j, i in around if 0 <= j < height and 0 <= i < length]
            here = int(labels[y, x])
            if here != 255 and any(other not in (here, 255) for other in inside):
                rows = slice(max(y - (width - 1 - width // 2), 0), y + width // 2 + 1)
                found[rows, max(x - (width - 1 - width // 2), 0) : x + width // 2 + 1] = 1
    return found


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_boundaries(width):
    generator = torch.Generator().manual_seed(2)
    tiles = torch.randint(0, 3, (2, 3, 4), generator=generator)
    tiles[0, 1, 1] = 255
    labels = tiles.repeat_interleave(7, 1).repeat_interleave(6, 2)[:, :19, :23]
    found = class_boundaries(labels, width, 255)
    assert torch.equal(found, torch.stack([by_hand(one, width) for one in labels]))
    assert 0 < found.float().mean() < 1
    assert not class_boundaries(torch.full_like(labels, 255), width, 255).any()


def test_both_kinds_of_pixels_count_as_much():
    logits = torch.randn(2, 1, 4, 5, dtype=torch.float64)
    labels = (torch.rand(2, 4, 5) < 0.2).long()
    labels[0, 0, 0] = 7
    valid = labels != 7
    share = float((labels[valid] == 1).double().mean())
    total = 0.0
    for score, label in zip(logits[:, 0][valid].tolist(), labels[valid].tolist(), strict=True):
        likelihood = 1 / (1 + math.exp(-score if label else score))
        total -= (1 - share if label else share) * math.log(likelihood)
    loss = BoundaryLoss(weight=20.0)
    assert float(loss(logits, labels, ignore_index=7)) == pytest.approx(20 * total / int(valid.sum()))
    assert float(loss(logits, torch.full_like(labels, 7), ignore_index=7)) == 0
    assert build_loss({"type": "boundary", "weight": 20.0}) == loss


def test_logits_of_classes_have_no_boundary():
    with pytest.raises(SegZooError, match="2 channels and not one"):
        BoundaryLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))


def test_mean_over_the_hard_pixels_of_a_batch():
    """As 1.x's ``OhemCrossEntropy``: sorted probabilities, the one behind the last that is always kept, strictly below."""
    weights = (0.5, 1.0, 2.0)
    logits, labels = 2 * torch.randn(3, 3, 5, 6, dtype=torch.float64), torch.randint(0, 3, (3, 5, 6))
    labels[:, :1] = 255
    losses = F.cross_entropy(logits, labels, torch.tensor(weights).double(), ignore_index=255, reduction="none")
    valid = labels != 255
    right = logits.softmax(1).gather(1, labels.where(valid, 0)[:, None])[:, 0][valid]
    for threshold, least in ((0.3, 1), (0.3, 60), (0.9, 10), (0.0, 1000)):
        limit = max(float(right.sort().values[min(least, len(right) - 1)]), threshold)
        expected = losses[valid][right < limit].mean()
        ohem = {"threshold": threshold, "min_kept": least, "per_batch": True}
        loss = CrossEntropyLoss(class_weights=weights, average="kept", ohem=ohem)
        assert float(loss(logits, labels)) == pytest.approx(float(expected))
        assert build_loss(loss.to_dict()) == loss
    assert float(loss(logits, torch.full_like(labels, 255))) == 0


def test_options():
    with pytest.raises(SegZooError, match="average='kept' needs ohem"):
        CrossEntropyLoss(average="kept")
    with pytest.raises(SegZooError, match="per_batch=1 must be true or false"):
        Ohem(per_batch=1)
    kept = CrossEntropyLoss(ohem={"threshold": 0.7, "min_kept": 5}).to_dict()
    assert kept == {"type": "cross_entropy", "ohem": {"threshold": 0.7, "min_kept": 5}}
