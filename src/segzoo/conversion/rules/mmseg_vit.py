"""VisionTransformer of mmsegmentation, and of mmpretrain, which mmsegmentation uses for some models."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.vit import ViTConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.vit import image_sides, map_names

# mmpretrain's arch -> width, blocks, heads, width inside the feed-forward parts. Others have another feed-forward part.
_SIZES = {
    "small": (768, 8, 8, 768 * 3),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
    "deit-tiny": (192, 12, 3, 768),
    "deit-small": (384, 12, 6, 1536),
    "deit-base": (768, 12, 12, 3072),
}
_SHORT = {
    "s": "small",
    "b": "base",
    "l": "large",
    "h": "huge",
    "deit-t": "deit-tiny",
    "deit-s": "deit-small",
    "deit-b": "deit-base",
    "dinov2-s": "deit-small",
    "dinov2-small": "deit-small",
}
_ARCH = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")


def _shared(options: Options) -> dict[str, Any]:
    """Takes the options that both classes have, with the same defaults, and returns fields of our config."""
    options.ignore("init_cfg")
    return {
        "image_size": image_sides(options.take("img_size", 224)),
        "num_channels": options.take("in_channels", 3),
        "dropout": float(options.take("drop_rate", 0.0)),
        "drop_path_rate": float(options.take("drop_path_rate", 0.0)),
        "interpolation": options.expect("interpolate_mode", "bicubic", "bilinear"),
        "pre_norm": bool(options.take("pre_norm", False)),
        "normed_maps": "last",
    }


def drops_attention(context: Context) -> bool:
    """Whether drop path drops the branches with the attention too.

    A config of 0.x does not tell: up to 0.23, which trained the published checkpoints, they are dropped, and from 0.24
    on they are not.
    """
    return not context.original.is_1x


def _translate_mmseg(original: Mapping[str, Any], context: Context) -> ViTConfig:
    options = Options(original, context.where)
    # Initialisation and memory; evaluation mode changes nothing in layer norms.
    options.ignore("pretrained", "norm_eval", "with_cp")
    options.in_training("frozen_exclude", ["all"], usual=(["all"], ("all",)))
    options.expect("patch_norm", False)
    options.expect("num_fcs", 2)
    options.expect("qkv_bias", True)  # without it the projection after attention has none either
    options.activation(default="GELU", only="GELU")
    depth, indices = options.take("num_layers", 12), options.take("out_indices", -1)
    if isinstance(indices, int):
        indices = [depth - 1 if indices == -1 else indices]
    maps = map_names(indices)
    tokens = [name.replace("stage", "token") for name in maps] if options.take("output_cls_token", False) else []
    if options.take("out_origin", False):
        if tokens:
            raise options.error("out_origin=True with output_cls_token=True is not supported")
        maps = ["stem", *maps]
    config = ViTConfig(
        patch_size=options.take("patch_size", 16),
        patch_bias=bool(options.take("patch_bias", not context.original.is_1x)),
        pad=options.expect("patch_pad", "corner", 0) == "corner",
        hidden_size=options.take("embed_dims", 768),
        num_hidden_layers=depth,
        num_attention_heads=options.take("num_heads", 12),
        mlp_ratio=float(options.take("mlp_ratio", 4)),
        class_token=bool(options.take("with_cls_token", True)),
        attention_dropout=float(options.take("attn_drop_rate", 0.0)),
        drop_attention=drops_attention(context),
        norm_eps=options.layer_norm_eps(),
        final_norm=bool(options.take("final_norm", False)),
        out_features=[*maps, *tokens],
        **_shared(options),
    )
    options.finish()
    return config


def _translate_mmpretrain(original: Mapping[str, Any], context: Context) -> ViTConfig:
    options = Options(original, context.where)
    options.in_training("frozen_stages", -1, usual=(-1, 0))
    options.expect("with_cls_token", True)
    options.expect("patch_cfg", {})
    options.expect("layer_cfgs", {})
    # Early versions return a map and a class token, or a map alone.
    token = options.take("output_cls_token", None)
    kind = options.take("out_type", "featmap" if token is False else "cls_token")
    if kind != "featmap":
        raise options.error(f"out_type={kind!r} is not supported (only 'featmap', maps)")
    arch = options.take("arch", "base")
    if isinstance(arch, str):
        name = _SHORT.get(arch.lower(), arch.lower())
        if name not in _SIZES:
            raise options.error(f"arch={arch!r} is not supported (only {', '.join(_SIZES)}, or a dict)")
        width, depth, heads, hidden = _SIZES[name]
    else:
        parts = Options(arch, f"{context.where}.arch")
        width, depth, heads, hidden = (parts.take(part) for part in _ARCH)
        parts.finish()
    indices = options.take("out_indices", -1)
    indices = [i + depth if i < 0 else i for i in ([indices] if isinstance(indices, int) else indices)]
    pre_norm, scale = bool(original.get("pre_norm", False)), float(options.take("layer_scale_init_value", 0.0))
    config = ViTConfig(
        patch_size=options.take("patch_size", 16),
        patch_bias=not pre_norm,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_ratio=hidden / width,
        qkv_bias=bool(options.take("qkv_bias", True)),
        layer_scale=scale if scale > 0 else None,
        norm_eps=options.layer_norm_eps(eps=1e-6),
        final_norm=bool(options.take("final_norm", True)),
        out_features=map_names(indices),
        **_shared(options),
    )
    options.finish()
    return config


def _embedding_keys(config: ViTConfig) -> Iterable[KeyRule]:
    yield KeyRule("cls_token", "class_token" if config.class_token else None)
    yield KeyRule("pos_embed", "position_embeddings")
    yield KeyRule("patch_embed.projection.{}", "patch_embedding.{}")
    yield KeyRule("ln1.{}", "norm.{}")
    yield from _norm_and_mlp_keys()


def _norm_and_mlp_keys() -> Iterable[KeyRule]:
    for i in (1, 2):
        yield KeyRule(f"layers.{{}}.ln{i}.{{}}", f"layers.{{}}.norm{i}.{{}}")
    yield KeyRule("layers.{}.ffn.layers.0.0.{}", "layers.{}.mlp.fc1.{}")
    yield KeyRule("layers.{}.ffn.layers.1.{}", "layers.{}.mlp.fc2.{}")


def mmseg_keys(config: ViTConfig) -> Iterable[KeyRule]:
    """The key rules of mmsegmentation's ViT, whose attention is PyTorch's."""
    yield KeyRule("ln_pre.{}", "pre_norm.{}")
    yield from _embedding_keys(config)
    yield from _attention_keys()


def mmseg_block_keys() -> Iterable[KeyRule]:
    """The key rules of mmsegmentation's ``TransformerEncoderLayer``s in a list ``layers``."""
    yield from _norm_and_mlp_keys()
    yield from _attention_keys()


def _attention_keys() -> Iterable[KeyRule]:
    attention = "layers.{}.attn.attn"
    for part in ("weight", "bias"):
        yield KeyRule(f"{attention}.in_proj_{part}", f"layers.{{}}.attention.qkv.{part}")
    yield KeyRule(f"{attention}.out_proj.{{}}", "layers.{}.attention.proj.{}")


def mmpretrain_keys(config: ViTConfig) -> Iterable[KeyRule]:
    """The key rules of mmpretrain's ViT, which may have learned scales."""
    yield KeyRule("pre_norm.{}", "pre_norm.{}")
    yield from _embedding_keys(config)
    yield KeyRule("layers.{}.attn.gamma1.weight", "layers.{}.scale1")
    yield KeyRule("layers.{}.ffn.gamma2.weight", "layers.{}.scale2")
    yield KeyRule("layers.{}.attn.{}", "layers.{}.attention.{}")


MMSEG_VIT = register(
    BackboneRule(
        types=("VisionTransformer",),
        translate=_translate_mmseg,
        keys=mmseg_keys,
        told_by=("embed_dims", "num_layers", "num_fcs", "patch_norm", "patch_pad", "out_origin", "norm_eval"),
    )
)
MMPRETRAIN_VIT = register(
    BackboneRule(
        types=("VisionTransformer",),
        translate=_translate_mmpretrain,
        keys=mmpretrain_keys,
        told_by=("arch", "out_type", "layer_scale_init_value", "patch_cfg", "layer_cfgs"),
    )
)
