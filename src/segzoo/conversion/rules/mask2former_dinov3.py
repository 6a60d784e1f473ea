"""The Mask2FormerHead of DINOv3's segmentation code (https://github.com/facebookresearch/dinov3).

It has the parts of Mask2Former's own code, whose names are not those of mmdetection's class of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import MAX_CLASSES
from segzoo.heads.mask2former import Mask2FormerHeadConfig


def _translate(original: Mapping[str, Any], context: Context) -> Mask2FormerHeadConfig:
    """Translates ``dict(type="Mask2FormerHead", input_shape=..., hidden_dim=...)``; the original fixes all other sizes."""
    options = Options(original, context.where)
    options.ignore("loss_weight", "ignore_value")
    options.expect("transformer_in_feature", "multi_scale_pixel_decoder")
    shapes, num_labels = options.take("input_shape"), options.take("num_classes", 150)
    if type(num_labels) is not int or not 1 <= num_labels <= MAX_CLASSES:
        raise options.error(f"num_classes={num_labels!r:.40} must be an integer from 1 to {MAX_CLASSES}")
    if not all(isinstance(shape, (list, tuple)) and len(shape) == 4 and shape[3] == 4 for shape in shapes.values()):
        raise options.error("input_shape must have [channels, height, width, 4] for each map, finest first")
    channels = options.take("hidden_dim", 2048)
    options.finish()
    return Mask2FormerHeadConfig(
        num_labels=num_labels,
        in_channels=[shape[0] for shape in shapes.values()],
        in_index=list(range(len(shapes))),
        channels=channels,
        mask_channels=channels,
        num_queries=100,
        encoder_layers=6,
        encoder_heads=16,
        encoder_hidden_channels=4096,
        decoder_layers=9,
        decoder_heads=16,
        decoder_hidden_channels=4096,
        resize_masks_first=True,
        norm_groups=32,
    )


def _keys() -> Iterable[KeyRule]:
    old, new = "pixel_decoder", "pixel_decoder"
    for place, part in enumerate(("conv", "norm")):
        yield KeyRule(f"{old}.input_convs.{{}}.{place}.{{}}", f"{new}.input_convs.{{}}.{part}.{{}}")
    for name in ("lateral_convs", "output_convs"):
        yield KeyRule(f"{old}.{name}.{{}}.norm.{{}}", f"{new}.{name}.{{}}.norm.{{}}")
        yield KeyRule(f"{old}.{name}.{{}}.weight", f"{new}.{name}.{{}}.conv.weight")
    yield KeyRule(f"{old}.encoder.level_encoding", f"{new}.level_embed.weight")
    yield KeyRule(f"{old}.mask_feature.{{}}", f"{new}.mask_features.{{}}")
    old, new = "pixel_decoder.encoder.encoder.layers.{}", "pixel_decoder.layers.{}"
    yield KeyRule(f"{old}.self_attn.{{}}", f"{new}.attention.{{}}")
    for i in (1, 2):
        yield KeyRule(f"{old}.norm{i}.{{}}", f"{new}.norm{i}.{{}}")
        yield KeyRule(f"{old}.linear{i}.{{}}", f"{new}.feed_forward.linear{i}.{{}}")
        yield KeyRule(
            f"predictor.transformer_ffn_layers.{{}}.linear{i}.{{}}", f"layers.{{}}.feed_forward.linear{i}.{{}}"
        )
    parts = {"cross": ("multihead_attn", 1), "self": ("self_attn", 2)}
    for kind, (attention, norm) in parts.items():
        old, new = f"predictor.transformer_{kind}_attention_layers.{{}}", f"layers.{{}}.{kind}_attention"
        for part in ("weight", "bias"):
            yield KeyRule(f"{old}.{attention}.in_proj_{part}", f"{new}.in_proj.{part}")
        yield KeyRule(f"{old}.{attention}.out_proj.{{}}", f"{new}.out_proj.{{}}")
        yield KeyRule(f"{old}.norm.{{}}", f"layers.{{}}.norm{norm}.{{}}")
    yield KeyRule("predictor.transformer_ffn_layers.{}.norm.{}", "layers.{}.norm3.{}")
    names = {
        "post_norm": "norm",
        "query_feat": "query_features",
        "query_embed": "query_positions",
        "level_embed": "level_embed",
        "class_embed": "classifier",
    }
    for name, ours in names.items():
        yield KeyRule(f"predictor.{name}.{{}}", f"{ours}.{{}}")
    for i in range(3):  # with activations between them in ours
        yield KeyRule(f"predictor.mask_embed.layers.{i}.{{}}", f"mask_embed.{2 * i}.{{}}")


MASK2FORMER_DINOV3 = register(
    HeadRule(
        types=("Mask2FormerHead",),
        translate=_translate,
        keys=tuple(_keys()),
        told_by=("input_shape", "hidden_dim", "transformer_in_feature"),
    )
)
