"""BEiT: of its own repository and of ViT-Adapter's, which rescale the maps inside, and of mmsegmentation, which does not."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.beit import BeitConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.vit import timm_vit_keys, timm_vit_options
from segzoo.necks import PyramidNeckConfig


def original_beit(
    options: Options, *, image_size: int, absolute: bool, layer_scale: float | None, **fields: Any
) -> BeitConfig:
    """Takes the options of BEiT in its authors' spelling, and returns our config.

    Args:
        options: the backbone's options.
        image_size: side of the images if the options do not say it.
        absolute: whether positions are absolute, not relative, if the options do not say it.
        layer_scale: initial value of the learned scales if the options do not say it.
        fields: further fields of our config.

    Raises:
        ConversionError: the positions are not tables of offsets of every block.
    """
    options.ignore("use_checkpoint")  # of gradients
    options.expect("hybrid_backbone", None)
    options.expect("use_shared_rel_pos_bias", False)
    if options.take("use_abs_pos_emb", absolute):
        raise options.error("a BEiT with absolute positions (use_abs_pos_emb) is not supported")
    if not options.take("use_rel_pos_bias", not absolute):
        raise options.error("a BEiT without tables of relative positions (use_rel_pos_bias) is not supported")
    scale = options.take("init_values", layer_scale)
    return BeitConfig(
        image_size=_image_size(options.take("img_size", image_size)),
        layer_scale=None if scale is None else float(scale),
        **timm_vit_options(options, qkv_bias=False),
        **fields,
    )


def _image_size(size: Any) -> int | list[int]:
    if isinstance(size, int):
        return size
    return list(size) * 2 if len(size) == 1 else list(size)


def _maps(indices: Iterable[int]) -> list[str]:
    return [f"stage{i + 1}" for i in sorted(set(indices))]


def _translate_original(original: Mapping[str, Any], context: Context) -> BeitConfig:
    options = Options(original, context.where)
    maps = _maps(options.take("out_indices", (3, 5, 7, 11)))
    if len(maps) > 4 or original.get("patch_size", 16) not in (8, 16):
        raise options.error("more than four maps, or patches of another size than 8 and 16, are not supported")
    config = original_beit(options, image_size=224, absolute=True, layer_scale=None, out_features=maps)
    options.finish()
    return config


def _neck(config: BeitConfig) -> tuple[PyramidNeckConfig, Iterable[KeyRule]]:
    """The neck of ``fpn1`` to ``fpn4``, each of which rescales one map, and their keys."""
    scales = [4.0, 2.0, 1.0, 0.5] if config.patch_size == 16 else [2.0, 1.0, 0.5, 0.25]
    keys = [KeyRule("fpn1.{}", "upsample_4x.{}"), KeyRule("fpn2.0.{}", "upsample_2x.{}")]
    if config.patch_size == 8:
        keys = [KeyRule("fpn1.0.{}", "upsample_2x.{}")]
    elif len(config.out_features) == 1:
        keys[1] = KeyRule("fpn2.0.{}", None)  # never run
    count = len(config.out_features)
    return PyramidNeckConfig(in_channels=[config.hidden_size] * count, scales=scales[:count]), keys


def _translate_mmseg(original: Mapping[str, Any], context: Context) -> BeitConfig:
    options = Options(original, context.where)
    options.ignore("init_cfg", "pretrained", "norm_eval")  # training and initialisation
    options.expect("patch_norm", False)
    options.expect("final_norm", False)
    options.expect("num_fcs", 2)
    options.activation(default="GELU", only="GELU")
    depth, indices = options.take("num_layers", 12), options.take("out_indices", -1)
    if isinstance(indices, int):
        indices = [depth - 1 if indices == -1 else indices]
    config = BeitConfig(
        image_size=_image_size(options.take("img_size", 224)),
        patch_size=options.take("patch_size", 16),
        num_channels=options.take("in_channels", 3),
        hidden_size=options.take("embed_dims", 768),
        num_hidden_layers=depth,
        num_attention_heads=options.take("num_heads", 12),
        mlp_ratio=float(options.take("mlp_ratio", 4)),
        out_features=_maps(indices),
        qkv_bias=bool(options.take("qv_bias", True)),
        attention_dropout=float(options.take("attn_drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        norm_eps=options.layer_norm_eps(),
        layer_scale=float(options.take("init_values", 0.1)),
    )
    options.finish()
    return config


def _mmseg_keys() -> Iterable[KeyRule]:
    yield KeyRule("cls_token", "class_token")
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
        types=("BEiT",),
        translate=_translate_mmseg,
        keys=tuple(_mmseg_keys()),
        told_by=("embed_dims", "num_layers", "in_channels", "qv_bias", "norm_cfg", "act_cfg"),
    )
)
ORIGINAL_BEIT = register(
    BackboneRule(
        types=("BEiT", "BEiTBaseline"),
        translate=_translate_original,
        keys=tuple(timm_vit_keys(scale="gamma_")),
        neck=_neck,
        told_by=("embed_dim", "depth", "in_chans", "qkv_bias", "use_rel_pos_bias", "use_abs_pos_emb"),
    )
)
