"""ResNeSt's classifiers in the names of its authors, which timm keeps, and of mmpretrain."""

import pytest
import timm
import torch
from support.contract import settle

from segzoo import AutoBackbone
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.pretrained import find_kind


@torch.no_grad()
def test_every_form_gives_the_same_backbone(tmp_path):
    theirs = settle(timm.create_model("resnest50d", channels=(8, 16, 32, 64), stem_width=4, num_classes=10)).eval()
    state = theirs.state_dict()
    in_mmpretrain = {}
    for key, value in state.items():
        for old, new in (("conv1.", "stem."), ("bn1.", "stem.7."), ("fc.", "head.fc.")):
            if key.startswith(old):
                key = new + key.removeprefix(old)
        in_mmpretrain[key if key.startswith("head.") else f"backbone.{key}"] = value
    files = {"timm": state, "mmpretrain": {"state_dict": in_mmpretrain}}
    x, expected = torch.randn(1, 3, 65, 97), []
    y = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(x))))
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        expected.append(y := stage(y))
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        report = convert_checkpoint(tmp_path / f"{name}.pth", output=tmp_path / name).report
        backbone = AutoBackbone.from_pretrained(tmp_path / name).eval()
        assert "fast" in report.notes[0] and all("fc." in key for key in report.keys.left_out)
        for ours, want in zip(backbone(x).feature_maps, expected, strict=True):
            assert torch.allclose(ours, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_its_depth_and_widths_are_read_from_the_weights():
    with torch.device("meta"):
        state = timm.create_model("resnest101e").state_dict()
        fast = timm.create_model("resnest50d_4s2x40d").state_dict()
    kind = find_kind(state)
    config = kind.translate(state, "file").config
    assert (config.depth, config.stem_channels, config.base_channels, config.radix, config.reduction_factor) == (
        (101, 128, 64, 2, 4)
    )
    with pytest.raises(ConversionError, match='^file: 320 branches of 10 channels are a "fast" ResNeSt'):
        kind.translate(fast, "file")
    with pytest.raises(ConversionError, match=r"^file: .*layer4.0.conv2.fc1.weight is missing"):
        kind.translate({key: value for key, value in state.items() if key != "layer4.0.conv2.fc1.weight"}, "file")
