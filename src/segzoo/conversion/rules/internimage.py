"""InternImage, of its own repository's segmentation code."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.internimage import InternImageConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options


def translate(original: Mapping[str, Any], context: Context) -> InternImageConfig:
    """Translates ``dict(type="InternImage", channels=64, ...)``."""
    options = Options(original, context.where)
    # training and initialisation only
    options.ignore("pretrained", "init_cfg", "with_cp")
    options.in_training("frozen_stages", -1, usual=(-1, 0))
    options.expect("core_op", "DCNv3", "DCNv3_pytorch")
    options.expect("norm_layer", "LN")
    options.expect("act_layer", "GELU")
    options.expect("use_clip_projector", False)
    options.expect("use_dcn_v4_op", False)  # another operator, with the same weights
    drop_path_type = options.expect("drop_path_type", "linear", "uniform")
    level2_post_norm = options.take("level2_post_norm", False)
    post_norm_blocks = options.take("level2_post_norm_block_ids", None)
    config = InternImageConfig(
        num_channels=options.take("in_chans", 3),
        channels=options.take("channels", 64),
        depths=list(options.take("depths", (3, 4, 18, 5))),
        groups=list(options.take("groups", (3, 6, 12, 24))),
        mlp_ratio=float(options.take("mlp_ratio", 4.0)),
        kernel_size=3,
        depthwise_kernel_size=options.take("dw_kernel_size", None) or 3,
        offset_scale=float(options.take("offset_scale", 1.0)),
        remove_center=bool(options.take("remove_center", False)),
        center_feature_scale=bool(options.take("center_feature_scale", False)),
        post_norm=bool(options.take("post_norm", False)),
        residual_post_norm=bool(options.take("res_post_norm", False)),
        post_norm_blocks=list(post_norm_blocks or []) if level2_post_norm else [],
        layer_scale=options.take("layer_scale", None),
        drop_path_rate=float(options.take("drop_path_rate", 0.2)),
        drop_path_uniform=drop_path_type == "uniform",
        dropout=float(options.take("drop_rate", 0.0)),
        out_features=[f"stage{i + 1}" for i in sorted(options.take("out_indices", (0, 1, 2, 3)))],
    )
    options.finish()
    return config


def keys(config: InternImageConfig) -> Iterable[KeyRule]:
    """The key rules; in the original the norms come after a permutation, hence their extra index."""
    yield KeyRule("patch_embed.conv1.{}", "stem.0.conv.{}")
    yield KeyRule("patch_embed.norm1.1.{}", "stem.0.norm.{}")
    yield KeyRule("patch_embed.conv2.{}", "stem.2.conv.{}")
    yield KeyRule("patch_embed.norm2.1.{}", "stem.2.norm.{}")
    old, new = "levels.{}.blocks.{}", "stages.{}.layers.{}"
    for i in (1, 2):
        yield KeyRule(f"{old}.gamma{i}", f"{new}.scale{i}.scale")
        yield KeyRule(f"{old}.norm{i}.0.{{}}", f"{new}.norm{i}.{{}}")
        yield KeyRule(f"{old}.res_post_norm{i}.0.{{}}", f"{new}.residual_norm{i}.{{}}")
    yield KeyRule(f"{old}.dcn.dw_conv.0.{{}}", f"{new}.dcn.depthwise_conv.{{}}")
    yield KeyRule(f"{old}.dcn.dw_conv.1.1.{{}}", f"{new}.dcn.depthwise_norm.{{}}")
    for name in ("weight", "bias"):
        yield KeyRule(f"{old}.dcn.center_feature_scale_proj_{name}", f"{new}.dcn.center_scale.{name}")
    yield KeyRule(f"{old}.{{}}", f"{new}.{{}}")
    yield KeyRule("levels.{}.post_norms.{}.0.{}", "stages.{}.post_norms.{}.{}")
    yield KeyRule("levels.{}.downsample.conv.{}", "stages.{}.downsample.conv.{}")
    yield KeyRule("levels.{}.downsample.norm.1.{}", "stages.{}.downsample.norm.{}")
    yield KeyRule("levels.{}.norm.0.{}", "stages.{}.norm.{}")


INTERNIMAGE = register(BackboneRule(types=("InternImage",), translate=translate, keys=keys))
