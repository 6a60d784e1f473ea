"""STDC's boundary head: its targets, worked out by hand, and its losses."""

import pytest
import torch
from support.contract import settle

from segzoo import AutoHead, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import STDCConfig
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, STDCHead, STDCHeadConfig
from segzoo.losses import CrossEntropyLoss, DiceLoss


def built(**options):
    return settle(AutoHead.from_config(STDCHeadConfig(in_channels=[4], in_index=[0], channels=4, **options))).eval()


def by_hand(labels):
    """The boundaries of one label map, pixel by pixel."""
    height, width = labels.shape

    def laplacian(y, x):
        inside = lambda j, i: int(labels[j, i]) if 0 <= j < height and 0 <= i < width else 0  # noqa: E731
        around = [inside(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        return 9 * around[4] - sum(around)

    found = torch.zeros(height, width, dtype=torch.int64)
    for y in range(height):
        for x in range(width):
            shares = 0
            for stride, share in ((1, 6), (2, 3), (4, 1)):
                rows, cols = (height - 1) // stride + 1, (width - 1) // stride + 1
                shares += share * (laplacian(y * rows // height * stride, x * cols // width * stride) > 0)
            found[y, x] = shares > 1  # a tenth alone is no boundary
    return found


@pytest.mark.parametrize("size", [(16, 24), (13, 19), (5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_targets(size, dtype):
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randint(0, 19, (2, *(-(-side // 4) for side in size)), generator=generator)
    tiles[0, 0, 0] = 255
    labels = tiles.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        targets, ignored = built().to(dtype).targets(labels, 255)
    assert ignored not in (0, 1)
    assert torch.equal(targets, torch.stack([by_hand(one) for one in labels]))
    assert 0 < targets.float().mean() < 1


def test_ids_that_are_ignored_are_numbers_like_others():
    """Not even where the id that does not count is 0 or 1, as a target is."""
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 2:6, 2:6] = 1
    head = built()
    for ignored in (0, 1, 255):
        assert torch.equal(head.targets(labels, ignored)[0][0], by_hand(labels[0]))
    targets, ignored = head.targets(torch.full_like(labels, 7), 7)
    assert (targets == ignored).all()


def test_losses():
    head, labels = built(), torch.randint(0, 3, (2, 16, 16)).repeat_interleave(4, 1)[:, :16]
    output = head([torch.randn(2, 4, 16, 16)])
    losses = head.compute_loss(output, labels, 255)
    targets, _ = head.targets(labels, 255)
    one_hot = torch.nn.functional.one_hot(targets, 2).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, one_hot)
    assert losses.keys() == {"cross_entropy", "dice"}
    assert torch.allclose(losses["cross_entropy"], expected)
    assert torch.allclose(losses["dice"], DiceLoss()(output.logits, targets))


def test_kernels_are_state_and_not_trained(tmp_path):
    head = built()
    assert {"boundaries.laplacian_kernel", "boundaries.fusion_kernel"} <= head.state_dict().keys()
    assert not any("kernel" in name for name, _ in head.named_parameters())
    head.boundaries.laplacian_kernel.mul_(-1)  # as a checkpoint may hold another
    head.save_pretrained(tmp_path)
    loaded = STDCHead.from_pretrained(tmp_path)
    assert torch.equal(loaded.boundaries.laplacian_kernel, head.boundaries.laplacian_kernel)
    state = {key: value for key, value in head.state_dict().items() if "kernel" not in key}
    fresh = STDCHead.from_pretrained(None, config=head.config, state_dict=state)
    assert torch.equal(fresh.boundaries.laplacian_kernel, built().boundaries.laplacian_kernel)
    assert torch.equal(fresh.boundaries.fusion_kernel, built().boundaries.fusion_kernel)


def test_in_a_model(tmp_path):
    """It trains the fine map; a change of all heads' losses, or of the classes, leaves it as it is."""
    config = SegZooConfig(
        backbone_config=STDCConfig.tiny(),
        decode_head_configs=[FCNHeadConfig(channels=8, num_convs=1)],
        auxiliary_head_configs=[
            FCNHeadConfig(channels=8, num_convs=1, in_index=[1]),
            STDCHeadConfig(channels=8, num_convs=1, in_index=[0]),
        ],
        num_labels=5,
    )
    model = settle(SegZooForSemanticSegmentation(config)).train()
    model.set_losses(auxiliary_losses=[CrossEntropyLoss(class_weights=(1.0, 2.0, 3.0, 4.0, 5.0))])
    assert [len(head.losses) for head in model.auxiliary_heads] == [1, 2]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    labels = torch.randint(0, 5, (2, 64, 64))
    for _ in range(2):
        output = model(torch.randn(2, 3, 64, 64), labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert {"auxiliary_1.cross_entropy", "auxiliary_1.dice"} <= output.losses.keys() and output.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert output.logits.shape[1] == 5
    model.save_pretrained(tmp_path)
    other = SegZooForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert (
        other.auxiliary_heads[1].classifier.out_channels == 2 and other.auxiliary_heads[0].classifier.out_channels == 3
    )


def test_options_that_it_cannot_have():
    with pytest.raises(SegZooError, match="own_outputs=None must be 2 at least"):
        STDCHeadConfig(own_outputs=None)
    with pytest.raises(SegZooError, match="own_outputs=2"):
        SegZooConfig(decode_head_configs=[STDCHeadConfig(channels=8)])
