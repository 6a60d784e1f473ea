"""How the folders beside this file were made, by segzoo 0.1.0 (November 2026), before its heads became templates.

The script is kept as a record of their contents; it does not run with later versions, which must load the folders.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Dinov2Config

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import (
    HRNetConfig,
    InternImageConfig,
    MobileNetV2Config,
    SegZooBeitConfig,
    SegZooResNetConfig,
    SegZooViTConfig,
    ViTAdapterConfig,
)
from segzoo.heads import FCNHeadConfig, Mask2FormerHeadConfig, PSPHeadConfig, UPerHeadConfig
from segzoo.hub import save_model_folder

HERE = Path(__file__).parent
CLASSES = {0: "sky", 1: "road", 2: "tree"}


def pixels() -> torch.Tensor:
    """Two images, (2, 3, 64, 96), of numbers that need no random generator."""
    return torch.sin(torch.arange(2 * 3 * 64 * 96, dtype=torch.float64) * 0.37).view(2, 3, 64, 96)


def build(backbone, head, **options) -> SegZooConfig:
    return SegZooConfig.from_backbone(backbone, head, id2label=CLASSES, **options)


def composites() -> dict[str, SegZooConfig]:
    narrow = FCNHeadConfig(channels=8)
    dinov2 = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    return {
        "resnet_uper": build(
            SegZooResNetConfig(depth=18, base_channels=4, stem_channels=8), UPerHeadConfig(channels=8)
        ),
        "resnet_psp": build(
            SegZooResNetConfig.tiny(),
            PSPHeadConfig(
                channels=8, losses=[{"type": "cross_entropy", "weight": 0.5}, {"type": "dice", "weight": 2.0}]
            ),
            auxiliary=False,
            palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
            window_size=(48, 48),
            window_stride=(32, 32),
        ),
        "hrnet_fcn": build(
            HRNetConfig.tiny(),
            FCNHeadConfig(
                in_index=[0, 1, 2, 3], resize_concat=True, channels=8, num_convs=1, kernel_size=1, concat_input=False
            ),
            auxiliary=False,
        ),
        "internimage_uper": build(InternImageConfig.tiny(), UPerHeadConfig(channels=8), auxiliary=False),
        "mobilenetv2_fcn": build(MobileNetV2Config.tiny(), narrow, auxiliary=False),
        "vit_fcn": build(SegZooViTConfig.tiny(), narrow, auxiliary=False),
        "beit_uper": build(SegZooBeitConfig.tiny(), UPerHeadConfig(channels=8), auxiliary=False),
        "vit_adapter_mask2former": build(
            ViTAdapterConfig.tiny(),
            Mask2FormerHeadConfig(
                channels=16,
                mask_channels=16,
                num_queries=5,
                encoder_layers=1,
                encoder_heads=2,
                encoder_hidden_channels=16,
                decoder_layers=2,
                decoder_heads=2,
                decoder_hidden_channels=16,
                norm_groups=4,
            ),
            auxiliary=False,
        ),
        "dinov2_pyramid_uper": build(dinov2, UPerHeadConfig(channels=8), auxiliary=False),
    }


def main() -> None:
    for name, config in composites().items():
        torch.manual_seed(0)
        model = SegZooForSemanticSegmentation(config).eval()
        for parameter in model.parameters():  # scales and tables that start at zero would hide what they weigh
            parameter.data += 0.02 * torch.randn_like(parameter)
        save_model_folder(model, SegZooImageProcessor(size={"height": 64, "width": 96}), HERE / name)
        torch.manual_seed(1)  # Mask2Former's loss draws points
        with torch.no_grad():
            outputs = model.double()(pixels(), labels=torch.zeros(2, 64, 96, dtype=torch.int64))
        save_file(
            {"logits": outputs.logits.float().contiguous(), "loss": outputs.loss.float()}, HERE / f"{name}.safetensors"
        )
    print("written by segzoo", segzoo.__version__)


if __name__ == "__main__":
    main()
