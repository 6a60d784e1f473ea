"""BiSeNetV1 of mmsegmentation, whose encoder is a dict inside its own."""

from collections.abc import Mapping
from typing import Any

from segzoo.backbones.bisenetv1 import BiSeNetV1Config
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, nested, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import channels_of_maps, conv_module, rising_indices


def translate(original: Mapping[str, Any], context: Context) -> tuple[BiSeNetV1Config, tuple[KeyRule, ...]]:
    """Translates ``dict(type="BiSeNetV1", backbone_cfg=dict(type="ResNet", ...), ...)``."""
    options = Options(original, context.where)
    # Training only; and what the class takes and does not use: its norms are plain batch norms, and maps grow by "nearest".
    options.ignore("init_cfg", "conv_cfg", "norm_cfg", "act_cfg", "align_corners")
    inside = context.at(f"{context.where}.backbone_cfg")
    encoder, keys = nested("backbone", options.take("backbone_cfg"), inside, "context_path.backbone.", "encoder.")
    widths = list(options.take("context_channels", (128, 256, 512)))
    spatial = list(options.take("spatial_channels", (64, 64, 64, 128)))
    maps = channels_of_maps(encoder)
    if len(maps) != 4 or len(widths) != 3 or widths[1:] != maps[-2:] or len(spatial) != 4:
        raise options.error(
            f"context_channels={widths} and spatial_channels={spatial} do not fit an encoder whose maps have {maps} channels"
        )
    if spatial[-1] + widths[0] != widths[1]:  # which the original takes for their sum
        raise options.error(
            f"spatial_channels={spatial} and context_channels={widths} do not fit the fusion of both paths"
        )
    config = BiSeNetV1Config(
        num_channels=options.take("in_channels", 3),
        encoder_config=encoder,
        spatial_channels=spatial,
        context_channels=widths[0],
        fused_channels=options.take("out_channels", 256),
        out_indices=rising_indices(options, (0, 1, 2)),
    )
    options.finish()
    return config, keys


KEYS = (
    *conv_module("context_path.gap_conv.1", "context_path.pooled"),
    *(
        rule
        for i, stride in enumerate((32, 16))
        for old, new in (
            (f"arm{stride}.conv_layer", f"refinements.{i}.conv"),
            (f"arm{stride}.atten_conv_layer.1", f"refinements.{i}.attention"),
            (f"conv_head{stride}", f"convs.{i}"),
        )
        for rule in conv_module(f"context_path.{old}", f"context_path.{new}")
    ),
    *(rule for i in range(4) for rule in conv_module(f"spatial_path.layer{i + 1}", f"spatial_path.{i}")),
    *conv_module("ffm.conv1", "fusion.conv"),
    *conv_module("ffm.conv_atten.0", "fusion.attention"),
)

BISENETV1 = register(BackboneRule(types=("BiSeNetV1",), translate=translate, keys=KEYS))
