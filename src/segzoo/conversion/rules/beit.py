"""BEiT, MAE and CAE: of their own repositories, which rescale the maps inside, and of mmsegmentation, which does not."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.beit import BeitConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.vit import (
    check_fpn,
    fpn_neck,
    image_sides,
    map_names,
    timm_vit_keys,
    timm_vit_options,
)


def original_beit(
    options: Options, *, image_size: int, absolute: bool, layer_scale: float | None, **fields: Any
) -> BeitConfig:
    """Takes the options of BEiT in its authors' spelling, and returns our config.

    Args:
        options: the backbone's options.
        image_size: side of the images if the options do not say it.
        absolute: whether positions are absolute, not relative, where the options do not say it.
        layer_scale: initial value of the learned scales if the options do not say it.
        fields: further fields of our config.

    Raises:
        ConversionError: all blocks share one table of offsets, or an option is not supported.
    """
    options.ignore("use_checkpoint")  # of gradients
    options.expect("hybrid_backbone", None)
    options.expect("use_shared_rel_pos_bias", False)
    scale = options.take("init_values", layer_scale)
    return BeitConfig(
        image_size=image_sides(options.take("img_size", image_size)),
        absolute_positions=bool(options.take("use_abs_pos_emb", absolute)),
        relative_positions=bool(options.take("use_rel_pos_bias", not absolute)),
        layer_scale=None if scale is None else float(scale),
        **timm_vit_options(options, qkv_bias=False),
        **fields,
    )


def _translate_original(original: Mapping[str, Any], context: Context) -> BeitConfig:
    options = Options(original, context.where)
    maps = map_names(options.take("out_indices", (3, 5, 7, 11)))
    check_fpn(options, maps, original.get("patch_size", 16))
    key_bias = original["type"] == "MAE" and bool(original.get("qkv_bias", False))
    config = original_beit(
        options, image_size=224, absolute=True, layer_scale=None, key_bias=key_bias, out_features=maps
    )
    options.finish()
    return config


def _translate_mmseg(original: Mapping[str, Any], context: Context) -> BeitConfig:
    options = Options(original, context.where)
    # Initialisation; and evaluation mode changes nothing in layer norms.
    options.ignore("init_cfg", "pretrained", "norm_eval")
    options.expect("patch_norm", False)
    options.expect("final_norm", False)
    options.expect("num_fcs", 2)
    options.activation(default="GELU", only="GELU")
    is_mae = original["type"] == "MAE"
    if is_mae:
        options.expect("with_cls_token", True)
        options.expect("output_cls_token", False)
    depth, indices = options.take("num_layers", 12), options.take("out_indices", -1)
    if isinstance(indices, int):
        indices = [depth - 1 if indices == -1 else indices]
    config = BeitConfig(
        image_size=image_sides(options.take("img_size", 224)),
        patch_size=options.take("patch_size", 16),
        num_channels=options.take("in_channels", 3),
        hidden_size=options.take("embed_dims", 768),
        num_hidden_layers=depth,
        num_attention_heads=options.take("num_heads", 12),
        mlp_ratio=float(options.take("mlp_ratio", 4)),
        out_features=map_names(indices),
        qkv_bias=is_mae or bool(options.take("qv_bias", True)),
        key_bias=is_mae,
        absolute_positions=is_mae,
        attention_dropout=float(options.take("attn_drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        norm_eps=options.layer_norm_eps(),
        layer_scale=float(options.take("init_values", 0.1)),
    )
    options.finish()
    return config


def _mmseg_keys() -> Iterable[KeyRule]:
    yield KeyRule("cls_token", "class_token")
    yield KeyRule("pos_embed", "position_embeddings")
    yield KeyRule("patch_embed.projection.{}", "patch_embedding.{}")
    for i in (1, 2):
        yield KeyRule(f"layers.{{}}.gamma_{i}", f"layers.{{}}.scale{i}")
        yield KeyRule(f"layers.{{}}.ln{i}.{{}}", f"layers.{{}}.norm{i}.{{}}")
    yield KeyRule("layers.{}.attn.relative_position_index", None)  # computed
    yield KeyRule("layers.{}.attn.{}", "layers.{}.attention.{}")
    yield KeyRule("layers.{}.ffn.layers.0.0.{}", "layers.{}.mlp.fc1.{}")
    yield KeyRule("layers.{}.ffn.layers.1.{}", "layers.{}.mlp.fc2.{}")


MMSEG_BEIT = register(
    BackboneRule(
        types=("BEiT", "MAE"),
        translate=_translate_mmseg,
        keys=tuple(_mmseg_keys()),
        told_by=("embed_dims", "num_layers", "in_channels", "qv_bias", "norm_cfg", "act_cfg"),
    )
)
ORIGINAL_BEIT = register(
    BackboneRule(
        types=("BEiT", "BEiTBaseline", "MAE", "CAE"),
        translate=_translate_original,
        keys=tuple(timm_vit_keys(scale="gamma_")),
        neck=fpn_neck,
        told_by=("embed_dim", "depth", "in_chans", "qkv_bias", "use_rel_pos_bias", "use_abs_pos_emb"),
    )
)
