"""Options of MIT's scene-parsing heads: pooled maps resized first, joined maps, losses at the logits' resolution."""

import pytest
import torch
from support.contract import settle
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import FCNHead, FCNHeadConfig, PSPHead, PSPHeadConfig, UPerHead, UPerHeadConfig
from segzoo.losses import CrossEntropyLoss


def uper(**options):
    torch.manual_seed(0)
    config = UPerHeadConfig(in_channels=[4, 8], channels=8, pool_scales=[1, 3], num_labels=3, dropout=0.0, **options)
    return settle(UPerHead(config)).eval()


@pytest.fixture
def maps():
    torch.manual_seed(1)
    return [torch.randn(1, 4, 12, 16), torch.randn(1, 8, 6, 8)]


def test_resizing_first_moves_the_relu_alone(maps):
    after, before = uper(), uper(resize_pooled_first=True)
    before.load_state_dict(after.state_dict())
    x = maps[1]
    own, one_cell, grid = before.pyramid(x)
    assert own is x and one_cell.shape == grid.shape == (1, 8, 6, 8)
    resized = F.interpolate(F.adaptive_avg_pool2d(x, 3), size=(6, 8), mode="bilinear")
    torch.testing.assert_close(grid, before.pyramid[1](resized))
    assert not torch.allclose(after(maps).logits, before(maps).logits, rtol=1e-3)
    for module in (*after.pyramid, *before.pyramid):
        module.activation = torch.nn.Identity()  # what is left is affine, and commutes with interpolation
    torch.testing.assert_close(after(maps).logits, before(maps).logits)


def test_pooled_maps_may_have_another_width(maps):
    head = uper(pool_channels=5)
    assert [conv.conv.out_channels for conv in head.pyramid] == [5, 5]
    assert head.context_conv.conv.in_channels == 8 + 2 * 5 and head(maps).logits.shape == (1, 3, 12, 16)


def test_psp_reads_joined_maps(maps):
    options = {"channels": 8, "pool_scales": [1, 2], "num_labels": 3}
    joined = PSPHead(PSPHeadConfig(in_channels=[4, 8], in_index=[0, 1], resize_concat=True, **options)).eval()
    single = PSPHead(PSPHeadConfig(in_channels=[12], in_index=[0], **options)).eval()
    single.load_state_dict(joined.state_dict())
    together = torch.cat([maps[0], F.interpolate(maps[1], size=(12, 16), mode="bilinear")], dim=1)
    torch.testing.assert_close(joined(maps).logits, single([together]).logits)
    with pytest.raises(SegZooError, match="resize_concat=True"):
        PSPHeadConfig(in_channels=[4, 8], in_index=[0, 1], **options)


def test_losses_with_downsampled_labels():
    config = FCNHeadConfig(
        in_channels=[4],
        channels=8,
        num_convs=1,
        num_labels=3,
        dropout=0.0,
        downsample_labels=True,
        losses=[CrossEntropyLoss(average="valid")],
    )
    head = FCNHead(config).eval()
    output = head([torch.randn(2, 4, 5, 7)])
    small = torch.randint(0, 3, (2, 5, 7))
    small[0, 0, :3] = 255
    labels = torch.full((2, 40, 56), 255)
    labels[:, 4::8, 4::8] = small  # the pixels at the centres, as Pillow's nearest filter takes them
    found = head.compute_loss(output, labels, 255)["cross_entropy"]
    torch.testing.assert_close(found, F.cross_entropy(output.logits, small, ignore_index=255))
    head.config.downsample_labels = False
    assert not torch.allclose(head.compute_loss(output, labels, 255)["cross_entropy"], found)
