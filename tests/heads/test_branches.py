"""The heads of DDRNet and PIDNet: branches that run with the losses alone, and what each of them is compared with."""

import pytest
import torch
from support.contract import settle
from torch.nn import functional as F

from segzoo import AutoHead, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import DDRNetConfig, PIDNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import DDRHeadConfig, PIDHeadConfig
from segzoo.losses import BoundaryLoss, CrossEntropyLoss, DiceLoss, class_boundaries

PID = {"in_channels": [8, 8, 16], "in_index": [0, 1, 2], "channels": 8, "num_labels": 5}


def built(config):
    return settle(AutoHead.from_config(config)).eval()


def labels_of_tiles():
    return torch.randint(0, 5, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)


@torch.no_grad()
def test_losses_of_pids_branches():
    """The boundaries' logits choose where the model's logits are compared once more."""
    head = built(
        PIDHeadConfig(**PID, boundary_threshold=0.5, losses=[CrossEntropyLoss()], boundary_losses=[DiceLoss()])
    )
    maps, labels = [torch.randn(2, channels, 8, 8) for channels in (8, 8, 16)], labels_of_tiles()
    output = head(maps)
    parts = head.compute_loss(output, labels, 255)
    assert parts.keys() == {"cross_entropy", "details.cross_entropy", "boundary", "boundaries.dice"}

    def grown(x):
        return F.interpolate(x, (64, 64), mode="bilinear", align_corners=True)

    details = grown(head.detail_classifier(head.detail_branch(maps[0])))
    assert torch.allclose(parts["details.cross_entropy"], 0.4 * F.cross_entropy(details, labels))
    boundary = grown(head.boundary_classifier(head.boundary_branch(maps[1])))
    wanted = class_boundaries(labels, 4, 255)
    assert torch.allclose(parts["boundary"], BoundaryLoss(weight=20.0)(boundary, wanted))
    sure = boundary[:, 0] > 0
    assert 0 < sure.float().mean() < 1
    assert torch.allclose(parts["boundaries.dice"], DiceLoss()(grown(output.logits), torch.where(sure, labels, 255)))


def test_maps_of_inference_are_those_of_training():
    """The other branches do not run without labels, and their maps may be anything."""
    head = built(PIDHeadConfig(**PID))
    head.detail_branch = head.boundary_branch = None
    maps = [torch.randn(1, channels, 8, 8) for channels in (8, 8, 16)]
    logits = head(maps).logits
    assert torch.equal(logits, head([torch.zeros_like(maps[0]), torch.zeros_like(maps[1]), maps[2]]).logits)


@pytest.mark.parametrize(
    ("backbone", "head"), [(DDRNetConfig, DDRHeadConfig), (PIDNetConfig, PIDHeadConfig)], ids=["ddr", "pid"]
)
def test_training_and_other_classes(backbone, head, tmp_path):
    """Two steps reach all parameters; class weights go to all losses of classes, and are dropped with the classes."""
    config = SegZooConfig(backbone_config=backbone.tiny(), decode_head_configs=[head(channels=8)], num_labels=5)
    model = settle(SegZooForSemanticSegmentation(config)).train()
    for decode_head in model.decode_heads:
        decode_head.set_class_weights([1.0, 2.0, 3.0, 4.0, 5.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    for _ in range(2):
        output = model(torch.randn(2, 3, 64, 64), labels=labels_of_tiles())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    same = SegZooForSemanticSegmentation.from_pretrained(tmp_path)
    assert same.config.decode_head_configs[0].detail_losses[0]["class_weights"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    other = SegZooForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    (found,) = other.decode_heads
    assert not any("class_weights" in loss for loss in (*found.config.losses, *found.config.detail_losses))
    assert found.detail_classifier.out_channels == found.classifier.out_channels == 3
    with pytest.raises(SegZooError, match="class_weights has 2 entries"):
        found.set_class_weights([1.0, 2.0])


def test_options_that_do_not_fit():
    with pytest.raises(SegZooError, match="PIDHeadConfig reads 3 maps, and not 2"):
        PIDHeadConfig(in_index=[0, 1])
    with pytest.raises(SegZooError, match="boundary_threshold=2.0 is no probability"):
        PIDHeadConfig(boundary_threshold=2.0)
    with pytest.raises(SegZooError, match="boundary_weight"):
        PIDHeadConfig(boundary_weight=-1.0)
