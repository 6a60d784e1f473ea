"""SETR's and Segmenter's heads: sizes and formulas, half precision, errors."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ViTConfig
from segzoo.errors import SegZooError
from segzoo.heads import SegmenterHead, SegmenterHeadConfig, SETRMLAHeadConfig, SETRUPHead, SETRUPHeadConfig
from segzoo.necks import MLANeckConfig


@torch.no_grad()
def test_every_convolution_is_followed_by_an_enlargement():
    config = SETRUPHeadConfig(in_channels=[6], channels=4, num_convs=2, up_scale=3, layer_norm_eps=0.5, num_labels=5)
    head, x = settle(SETRUPHead(config)).eval().double(), torch.randn(1, 6, 5, 4).double()
    y = F.layer_norm(x.permute(0, 2, 3, 1), (6,), head.norm.weight, head.norm.bias, 0.5).permute(0, 3, 1, 2)
    for conv in head.convs:
        y = F.interpolate(conv(y), scale_factor=3, mode="bilinear", align_corners=False)
    logits = head([x]).logits
    assert logits.shape == (1, 5, 45, 36)
    assert_close(logits, head.classifier(y), 1e-12)


@torch.no_grad()
def test_scores_are_normalised_cosines_in_any_precision():
    head = settle(SegmenterHead(SegmenterHeadConfig.tiny())).eval()
    pixels, classes = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
    scores = F.cosine_similarity(pixels[:, :, None], classes[:, None], dim=-1)
    norm = head.classifier.norm
    expected = F.layer_norm(scores, (5,), norm.weight, norm.bias, 1e-5)
    assert_close(head.classifier(pixels, classes), expected, 1e-5)
    large = [x.half() * 2000 for x in (pixels, classes)]  # whose squares are beyond half precision
    assert_close(head.half().classifier(*large), expected, 0.02)
    assert torch.isfinite(head.classifier(torch.zeros(1, 6, 16), classes[:1])).all()


def test_class_tokens_begin_as_small_noise():
    assert 0.01 < SegmenterHead(SegmenterHeadConfig.tiny()).classifier.tokens.std() < 0.03


@pytest.mark.parametrize("kind", ["up", "mla", "mask"])
def test_models_of_odd_sizes_train_and_ignore(kind):
    head = {
        "up": SETRUPHeadConfig(channels=16, num_convs=2),
        "mla": SETRMLAHeadConfig(channels=16),
        "mask": SegmenterHeadConfig(channels=16, num_heads=2),
    }[kind]
    neck = MLANeckConfig(channels=8, norm="batch_norm") if kind == "mla" else None
    model = SegZooForSemanticSegmentation(
        SegZooConfig(backbone_config=ViTConfig.tiny(), neck_config=neck, decode_head_configs=[head], num_labels=5)
    )
    pixels = torch.randn(2, 3, 113, 97)
    ignored = model(pixels, labels=torch.full((2, 113, 97), 255)).loss
    ignored.backward()
    assert ignored.item() == 0.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    model.gradient_checkpointing_enable()
    optimizer, labels = torch.optim.SGD(model.parameters(), lr=0.01), torch.randint(0, 5, (2, 113, 97))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(loss)


def test_what_does_not_fit_is_named():
    with pytest.raises(SegZooError, match="must be odd"):
        SETRUPHeadConfig(kernel_size=2)
    with pytest.raises(SegZooError, match="must equal the 8"):
        SETRUPHeadConfig(in_channels=[8], channels=4, num_convs=0)
    with pytest.raises(SegZooError, match="divide into 3 maps"):
        SETRMLAHeadConfig(in_channels=[8] * 3, channels=16)
    with pytest.raises(SegZooError, match="num_heads=5"):
        SegmenterHeadConfig(channels=16, num_heads=5)


def test_segmenter_drops_residual_branches_of_its_later_blocks():
    """The first block keeps its branches, and at a rate of 1 the last one loses both, in training alone."""
    config = SegmenterHeadConfig.tiny()
    config.num_layers, config.drop_path_rate = 3, 0.5
    assert [layer.drop_path.p for layer in SegmenterHead(config).layers] == [0.0, 0.25, 0.5]
    config.num_layers, config.drop_path_rate = 2, 1.0
    head, x = settle(SegmenterHead(config)).double(), [torch.randn(2, 32, 3, 4).double()]
    training, whole = head([None, None, *x]).logits, head.eval()([None, None, *x]).logits
    del head.layers[1]
    assert_close(training, head([None, None, *x]).logits, 1e-12)
    assert (training - whole).abs().max() > 1e-3


def test_segmenter_may_keep_the_attention_of_its_later_blocks():
    config = SegmenterHeadConfig.tiny()
    config.num_layers, config.drop_path_rate, config.drop_attention = 2, 1.0, False
    head, x = settle(SegmenterHead(config)).double(), [torch.randn(2, 32, 3, 4).double()]
    training = head([None, None, *x]).logits
    last = head.eval().layers[1]
    torch.nn.init.zeros_(last.mlp.fc2.weight)
    torch.nn.init.zeros_(last.mlp.fc2.bias)
    assert_close(training, head([None, None, *x]).logits, 1e-12)
