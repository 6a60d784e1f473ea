"""A backbone of your own, with the checkpoints that its original code wrote, without a change in segzoo.

    python examples/own_backbone.py

A config, a model and a table of names are all it takes. Import this module wherever its models are loaded, because
segzoo does not know it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation

from segzoo.auto import register_backbone
from segzoo.backbones import Backbone, BackboneConfig
from segzoo.base import ConvBlockConfig, strict
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, Options, register


@strict
class TwoStepConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``TwoStepBackbone``, besides those of its conv blocks.

    Args:
        width: channels of the finer map; the coarser one has twice as many.
    """

    model_type = "two_step"
    width: int = 16

    @property
    def stage_names(self) -> list[str]:
        return ["fine", "coarse"]


class TwoStepBackbone(Backbone):
    """Returns two maps, "fine" of stride 2 and "coarse" of stride 4."""

    config: TwoStepConfig

    def __init__(self, config: TwoStepConfig):
        super().__init__(config)
        self.fine = config.block(config.num_channels, config.width, 3, stride=2, padding=1)
        self.coarse = config.block(config.width, 2 * config.width, 3, stride=2, padding=1)
        self.num_features = [config.width, 2 * config.width]  # of the maps, in the order of stage_names
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        fine = self.fine(pixel_values)
        return [fine, self.coarse(fine)]


register_backbone(TwoStepConfig, TwoStepBackbone, variants={"two-step-s": {"width": 16}, "two-step-l": {"width": 64}})


def translate(original: Mapping[str, Any], context: Context) -> TwoStepConfig:
    """Translate ``dict(type="TwoStepNet", channels=16)``; an option that is not taken here is an error."""
    options = Options(original, context.where)
    options.ignore("pretrained")
    options.in_training("frozen_stages", -1)
    config = TwoStepConfig(width=options.take("channels"), **options.batch_norm())
    options.finish()
    return config


KEYS = (
    KeyRule("conv1.{}", "fine.conv.{}"),
    KeyRule("bn1.{}", "fine.norm.{}"),
    KeyRule("conv2.{}", "coarse.conv.{}"),
    KeyRule("bn2.{}", "coarse.norm.{}"),
)
register(BackboneRule(types=("TwoStepNet",), translate=translate, keys=KEYS))


# --- The rest stands for the original code and a checkpoint that it wrote.
# --------------------------------------------

CONFIG = """
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='TwoStepNet', channels=16, norm_cfg=dict(type='BN', eps=0.001)),
    decode_head=dict(type='FCNHead', in_channels=32, in_index=1, channels=32, num_convs=0, concat_input=False,
                     num_classes=3, norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
"""


class TwoStepNet(nn.Module):
    """The network in the author's code, whose names the key rules above translate."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=0.001)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


def main() -> None:
    """Write a checkpoint as the author's code does, convert it, and compare the logits."""
    torch.manual_seed(0)
    original = nn.ModuleDict(
        {"backbone": TwoStepNet(16), "decode_head": nn.ModuleDict({"conv_seg": nn.Conv2d(32, 3, 1)})}
    )
    images = torch.randn(2, 3, 64, 96)
    original["backbone"](images)  # moves the statistics of the norms
    with torch.no_grad():
        expected = original.eval()["decode_head"]["conv_seg"](original["backbone"](images))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, output = Path(folder) / "two_step.pth", Path(folder) / "model"
        meta = {"config": CONFIG, "CLASSES": ("sky", "road", "tree")}
        torch.save({"state_dict": original.state_dict(), "meta": meta}, checkpoint)
        convert_checkpoint(checkpoint, output=output)
        model = AutoModelForSemanticSegmentation.from_pretrained(output).eval()
    with torch.no_grad():
        logits = model(images).logits
    print(
        f"{type(model.backbone).__name__} with {type(model.decode_heads[0]).__name__}: {list(model.config.id2label.values())}"
    )
    print(f"largest difference from the original's logits: {(logits - expected).abs().max():.1e}")
    torch.testing.assert_close(logits, expected)


if __name__ == "__main__":
    main()
