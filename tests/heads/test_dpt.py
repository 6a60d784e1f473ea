"""DPT's head: class tokens, sizes of maps, and exports with a vision transformer's."""

import pytest
import torch
from support.contract import assert_close, settle
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ViTConfig
from segzoo.errors import SegZooError
from segzoo.export.export import ExportOptions, export_model
from segzoo.heads import DPTHead, DPTHeadConfig

TOKENS = [f"{kind}{i}" for kind in ("stage", "token") for i in (1, 2, 3, 4)]


def build(**options):
    torch.manual_seed(0)
    small = {"channels": 16, "reassemble_channels": [8, 8, 16, 16], "num_labels": 4}
    return settle(DPTHead(DPTHeadConfig(**small | options))).eval()


def unit(module, x):
    conv1, conv2 = module.conv1, module.conv2
    return x + conv2.norm(conv2.conv(F.relu(conv1.norm(conv1.conv(F.relu(x))))))


@torch.no_grad()
@pytest.mark.parametrize("readout", ["ignore", "add", "project"])
def test_readouts_and_fusion(readout):
    tokens = [] if readout == "ignore" else [torch.randn(2, 8, 1, 1).double() for _ in range(4)]
    head = build(in_channels=[8] * (4 + len(tokens)), readout=readout).double()
    maps = [torch.randn(2, 8, 5, 3).double() for _ in range(4)]  # an odd height, which half and double do not keep
    before = [x.clone() for x in maps]
    read = maps
    if readout == "add":
        read = [x + token for x, token in zip(maps, tokens, strict=True)]
    if readout == "project":
        read = []
        for x, token, layer in zip(maps, tokens, head.readouts, strict=True):
            both = torch.cat([x, token.expand_as(x)], 1).movedim(1, -1)
            read.append(F.gelu(layer.linear(both)).movedim(-1, 1))
    parts = []
    for i, x in enumerate(read):
        parts.append(head.convs[i](head.resize_layers[i](head.projections[i](x))))
    assert [tuple(x.shape[-2:]) for x in parts] == [(20, 12), (10, 6), (5, 3), (3, 2)]
    x = None
    for block, part in zip(head.fusion_blocks, reversed(parts), strict=True):
        if x is None:
            x = part
        else:
            x = x + unit(block.skip, F.interpolate(part, x.shape[-2:], mode="bilinear"))
        x = F.interpolate(unit(block.unit, x), scale_factor=2, mode="bilinear", align_corners=True)
        x = block.project(x)
    expected = head.classifier(head.fusion_conv(x))
    assert expected.shape == (2, 4, 48, 32)
    assert_close(head([*maps, *tokens]).logits, expected, 1e-12)
    assert all(torch.equal(x, y) for x, y in zip(maps, before, strict=True))  # nothing works in place on them


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    head = build(in_channels=[8] * 8)
    maps = [torch.randn(1, 8, 6, 5) for _ in range(4)] + [torch.randn(1, 8, 1, 1) for _ in range(4)]
    expected = head(maps).logits
    found = head.to(dtype)([x.to(dtype) for x in maps]).logits
    assert found.dtype == dtype
    assert_close(found.float(), expected, 0.1)


def model_with_tokens():
    backbone = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=64, out_features=TOKENS
    )
    head = DPTHeadConfig(channels=8, reassemble_channels=[8, 8, 8, 8])
    return settle(SegZooForSemanticSegmentation(SegZooConfig.from_backbone(backbone, head, num_labels=3)))


def test_a_model_with_class_tokens():
    model = model_with_tokens().train()
    model.gradient_checkpointing_enable()
    images, labels = torch.randn(2, 3, 113, 97), torch.randint(0, 3, (2, 113, 97))
    output = model(images, labels=labels)
    assert output.logits.shape == (2, 3, 64, 64)  # 8 x 7 patches, whose half is rounded up
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model(images, labels=torch.full_like(labels, 255)).loss == 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exports_with_class_tokens(suffix, tmp_path):
    options = ExportOptions(size=(64, 64), batch=1)
    assert export_model(model_with_tokens().eval(), tmp_path / f"model{suffix}", options).difference < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": [8] * 4}, "4 maps and then their 4 class tokens, and not 4 maps"),
        ({"in_channels": [8] * 8, "readout": "ignore"}, "reads 4 maps, and not 8 maps"),
        ({"in_channels": [8] * 7 + [16]}, "each class token the channels of its map"),
        ({"reassemble_channels": [8, 8]}, "reassemble_channels"),
    ],
)
def test_maps_that_do_not_fit(options, message):
    with pytest.raises(SegZooError, match=message):
        DPTHeadConfig(**options)
