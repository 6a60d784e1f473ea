"""InternViT6B of InternVL's segmentation code, alone or with the layers ``up1`` to ``up4`` that make a pyramid."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.internvit import InternViTConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.vit import timm_vit_keys
from segzoo.necks import PyramidNeckConfig


def internvit_keys(old: str = "", new: str = "") -> Iterable[KeyRule]:
    """Key rules for the embeddings and blocks; the arguments are those of `timm_vit_keys`."""
    for i in (1, 2):
        yield KeyRule(f"{old}blocks.{{}}.ls{i}.gamma", f"{new}layers.{{}}.scale{i}")
    yield from timm_vit_keys(old, new)


def _translate(original: Mapping[str, Any], context: Context) -> InternViTConfig:
    options = Options(original, context.where)
    # initialisation, memory and speed
    options.ignore("init_cfg", "pretrained", "pretrain_size", "with_cp", "use_flash_attn")
    options.in_training("freeze_vit", False)
    options.in_training("unfreeze_pos_embed", False)
    # how the learned scales round in half precision
    options.ignore("layerscale_force_fp32", "layerscale_no_force_fp32")
    options.expect("qkv_bias", False)
    options.expect("qk_normalization", True)
    options.expect("with_final_norm", False)
    options.expect("norm_type", "rms")  # of later forms of the class
    maps = [f"stage{i + 1}" for i in sorted(set(options.take("out_indices", (7, 11, 15, 23))))]
    if options.take("with_fpn", False) and len(maps) != 4:
        raise options.error(f"with_fpn=True rescales four maps, and out_indices names {len(maps)}")
    size, scale = options.take("img_size", 224), options.take("init_values", 0.1)
    config = InternViTConfig(
        image_size=size if isinstance(size, int) else list(size),
        num_channels=options.take("in_chans", 3),
        patch_size=options.take("patch_size", 14),
        hidden_size=options.take("embed_dim", 3200),
        num_hidden_layers=options.take("depth", 48),
        num_attention_heads=options.take("num_heads", 25),
        mlp_ratio=float(options.take("mlp_ratio", 4.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        layer_scale=float(scale) if scale else None,
        out_features=maps,
    )
    options.finish()
    return config


def _neck(config: InternViTConfig) -> tuple[PyramidNeckConfig, Iterable[KeyRule]]:
    neck = PyramidNeckConfig(in_channels=[config.hidden_size] * 4, norm="layer_norm", norm_eps=1e-6)
    return neck, [KeyRule("up1.{}", "upsample_4x.{}"), KeyRule("up2.0.{}", "upsample_2x.{}")]


INTERNVIT = register(
    BackboneRule(
        types=("InternViT6B",), translate=_translate, keys=tuple(internvit_keys()), neck=_neck, neck_option="with_fpn"
    )
)
