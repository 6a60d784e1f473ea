"""DINOv2's ViT and the linear heads over it (https://github.com/facebookresearch/dinov2), in two files.

The configs of its heads leave the ViT's sizes out, because the original takes the ViT from elsewhere; its width, which
the head reads, tells which of the released ones it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.vit import ViTConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import head_rule
from segzoo.conversion.rules.vit import image_sides, map_names, timm_vit_keys
from segzoo.heads.fcn import FCNHeadConfig

# The released ViTs by their width: what their original class is made with.
_SHARED = {"img_size": 518, "patch_size": 14, "init_values": 1e-5, "block_chunks": 0}
_RELEASED = {
    384: {"depth": 12, "num_heads": 6},
    768: {"depth": 12, "num_heads": 12},
    1024: {"depth": 24, "num_heads": 16},
    1536: {"depth": 40, "num_heads": 24, "ffn_layer": "swiglufused"},
}


def _released_sizes(context: Context, options: Options) -> dict[str, Any]:
    """The options of the released ViT whose width a head of the model reads.

    Raises:
        ConversionError: no head reads the width of a released ViT.
    """
    head = (context.original.model or {}).get("decode_head")
    channels = head.get("in_channels") if isinstance(head, Mapping) else None
    width = next(iter(channels), None) if isinstance(channels, (list, tuple)) else channels
    if width not in _RELEASED:
        raise options.error(
            f"it names no size (embed_dim, depth, num_heads), and its head reads {channels!r} channels, which is the width "
            f"of no released ViT ({', '.join(map(str, _RELEASED))}); add the sizes to the config"
        )
    return {**_SHARED, "embed_dim": width, **_RELEASED[width]}


def _translate(original: Mapping[str, Any], context: Context) -> ViTConfig:
    options = Options(original, context.where)
    if not {"embed_dim", "depth", "num_heads"} & original.keys():
        options = Options(_released_sizes(context, options) | dict(original), context.where)
    options.ignore("init_cfg", "pretrained")
    options.in_training("frozen", False)
    options.expect("block_chunks", 0)  # the chunks are in the keys
    options.expect("num_register_tokens", 0)
    options.expect("interpolate_antialias", False)
    options.expect("output_cls_token", False)
    for name in ("qkv_bias", "proj_bias", "ffn_bias"):
        options.expect(name, True)
    scale = options.take("init_values", None)
    depth = options.take("depth", 12)
    indices = options.take("out_indices", [depth - 1])
    config = ViTConfig(
        image_size=image_sides(options.take("img_size", 224)),
        patch_size=options.take("patch_size", 16),
        num_channels=options.take("in_chans", 3),
        hidden_size=options.take("embed_dim", 768),
        num_hidden_layers=depth,
        num_attention_heads=options.take("num_heads", 12),
        mlp_ratio=float(options.take("mlp_ratio", 4.0)),
        gated=options.expect("ffn_layer", "mlp", "swiglu", "swiglufused") != "mlp",
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        drop_path_uniform=bool(options.take("drop_path_uniform", False)),
        layer_scale=float(scale) if scale else None,
        interpolation_offset=float(options.take("interpolate_offset", 0.1)),
        pad_around=True,
        final_norm=bool(options.take("final_norm", True)),
        out_features=map_names([indices] if isinstance(indices, int) else indices),
    )
    options.finish()
    return config


def dinov2_keys(*, gated: bool) -> Iterable[KeyRule]:
    """Key rules of a ViT with ordinary or gated feed-forward parts."""
    yield KeyRule("mask_token", None)  # of its pre-training
    for i in (1, 2):
        yield KeyRule(f"blocks.{{}}.ls{i}.gamma", f"layers.{{}}.scale{i}")
    if gated:
        yield KeyRule("blocks.{}.mlp.w12.{}", "layers.{}.mlp.fc1.{}")
        yield KeyRule("blocks.{}.mlp.w3.{}", "layers.{}.mlp.fc2.{}")
    yield KeyRule("norm.{}", "norm.{}")
    yield from timm_vit_keys()


DINOV2 = register(
    BackboneRule(
        types=("DinoVisionTransformer",), translate=_translate, keys=lambda config: dinov2_keys(gated=config.gated)
    )
)

BN_HEAD = head_rule(
    "BNHead",
    config=FCNHeadConfig,
    expected={"resize_factors": (None,)},
    fixed={"num_convs": 0, "concat_input": False, "with_norm": True},
    keys=(KeyRule("bn.{}", "norm.{}"),),
)
