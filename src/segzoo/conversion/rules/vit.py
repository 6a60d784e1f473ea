"""Plain ViTs as timm and the repositories derived from it write them: ViTBaseline of ViT-Adapter's code, and iBOT's."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.plain_vit import PlainViTConfig
from segzoo.backbones.vit import ViTConfig
from segzoo.base import MAX_LAYERS
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.necks import PyramidNeckConfig


def timm_vit_keys(old: str = "", new: str = "", *, scale: str = "gamma") -> Iterable[KeyRule]:
    """Key rules for the embeddings and blocks of a ViT with timm's names.

    Args:
        old: prefix of its keys in the original, with the dot.
        new: prefix of its keys in our model, with the dot.
        scale: name of the learned scales, without their number: "gamma" or "gamma_".
    """
    yield KeyRule(f"{old}cls_token", f"{new}class_token")
    yield KeyRule(f"{old}pos_embed", f"{new}position_embeddings")
    yield KeyRule(f"{old}patch_embed.proj.{{}}", f"{new}patch_embedding.{{}}")
    for i in (1, 2):
        yield KeyRule(f"{old}blocks.{{}}.{scale}{i}", f"{new}layers.{{}}.scale{i}")
        yield KeyRule(f"{old}blocks.{{}}.norm{i}.{{}}", f"{new}layers.{{}}.norm{i}.{{}}")
    # This buffer is computed.
    yield KeyRule(f"{old}blocks.{{}}.attn.relative_position_index", None)
    yield KeyRule(f"{old}blocks.{{}}.attn.{{}}", f"{new}layers.{{}}.attention.{{}}")
    yield KeyRule(f"{old}blocks.{{}}.mlp.{{}}", f"{new}layers.{{}}.mlp.{{}}")


def timm_vit_options(options: Options, *, qkv_bias: bool = True) -> dict[str, Any]:
    """Takes the options that timm's ViT and the BEiT derived from it share, and returns fields of our config.

    Args:
        options: the backbone's options.
        qkv_bias: whether queries, keys and values have a bias if the options do not say it.
    """
    # training and initialisation, or a classifier that is not there
    options.ignore("init_cfg", "pretrained", "with_cp", "num_classes")
    options.expect("qk_scale", None)
    options.expect("norm_layer", None)
    return {
        "hidden_size": options.take("embed_dim", 768),
        "num_hidden_layers": options.take("depth", 12),
        "num_attention_heads": options.take("num_heads", 12),
        "mlp_ratio": float(options.take("mlp_ratio", 4.0)),
        "patch_size": options.take("patch_size", 16),
        "num_channels": options.take("in_chans", 3),
        "qkv_bias": bool(options.take("qkv_bias", qkv_bias)),
        "dropout": float(options.take("drop_rate", 0.0)),
        "attention_dropout": float(options.take("attn_drop_rate", 0.0)),
        "drop_path_rate": float(options.take("drop_path_rate", 0.0)),
    }


def tokenless_vit(options: Options, **fields: Any) -> ViTConfig:
    """Takes the options of ViT-Adapter's ViT, which has no class token, and returns our config.

    Args:
        options: the backbone's options.
        fields: further fields of our config, or others than ViT-Adapter's.
    """
    shared = timm_vit_options(options)
    return ViTConfig(
        image_size=_position_size(options, shared["patch_size"]),
        layer_scale=1.0 if options.take("layer_scale", True) else None,
        windows=attention_windows(options, shared["num_hidden_layers"]),
        **shared,
        **{"class_token": False, **fields},
    )


def _position_size(options: Options, patch_size: int) -> int:
    """Takes ``pretrain_size``, the side of the images that the position embeddings are for, and ``img_size``.

    Raises:
        ConversionError: the original makes embeddings for ``img_size``, which do not fit ``pretrain_size``.
    """
    size = options.take("pretrain_size", 224)
    made = options.take("img_size", size)
    if made // patch_size != size // patch_size:
        raise options.error(f"img_size={made!r} and pretrain_size={size!r} must be the same number of patches")
    return size


def map_names(indices: Iterable[int]) -> list[str]:
    """Our names of the maps of these blocks, which are counted from 0."""
    return [f"stage{i + 1}" for i in sorted(set(indices))]


def image_sides(size: Any) -> int | list[int]:
    """``image_size`` of our config for an ``img_size``, which is a side, a pair, or a list of one side."""
    if isinstance(size, int):
        return size
    return list(size) * 2 if len(size) == 1 else list(size)


def fpn_neck(config: PlainViTConfig) -> tuple[PyramidNeckConfig, Iterable[KeyRule]]:
    """The neck of ``fpn1`` to ``fpn4``, each of which rescales one map of a ViT, and their keys."""
    scales = [4.0, 2.0, 1.0, 0.5] if config.patch_size == 16 else [2.0, 1.0, 0.5, 0.25]
    keys = [KeyRule("fpn1.{}", "upsample_4x.{}"), KeyRule("fpn2.0.{}", "upsample_2x.{}")]
    if config.patch_size == 8:
        keys = [KeyRule("fpn1.0.{}", "upsample_2x.{}")]
    elif len(config.out_features) == 1:
        keys[1] = KeyRule("fpn2.0.{}", None)  # never run
    count = len(config.out_features)
    return PyramidNeckConfig(in_channels=[config.hidden_size] * count, scales=scales[:count]), keys


def check_fpn(options: Options, maps: list[str], patch_size: Any) -> None:
    """Checks that `fpn_neck` fits.

    Raises:
        ConversionError: there are more than four maps, or the patches have another size than 8 and 16.
    """
    if len(maps) > 4 or patch_size not in (8, 16):
        raise options.error("more than four maps, or patches of another size than 8 and 16, are not supported")


def attention_windows(options: Options, depth: int) -> list[int]:
    """Takes ``window_attn`` and ``window_size``; the side of each block's windows, or an empty list for no windows.

    Raises:
        ConversionError: they are lists of another length, a window has no size, or ``depth`` is no number of blocks.
    """
    if type(depth) is not int or not 0 < depth <= MAX_LAYERS:
        raise options.error(f"depth={depth!r:.60} is no number of blocks from 1 to {MAX_LAYERS}")

    def of_each_block(value: Any) -> list[Any]:
        return list(value) if isinstance(value, (list, tuple)) else [value] * depth

    windowed = of_each_block(options.take("window_attn", False))
    sides = of_each_block(options.take("window_size", 14))
    if len(windowed) != depth or len(sides) != depth:
        raise options.error(f"window_attn and window_size need one entry for each of {depth} blocks")
    if any(flag and not side for flag, side in zip(windowed, sides, strict=True)):
        raise options.error("window_attn is set where window_size is not")
    return [side if flag else 0 for flag, side in zip(windowed, sides, strict=True)] if any(windowed) else []


def _translate(original: Mapping[str, Any], context: Context) -> ViTConfig:
    """Translates ``dict(type="ViTBaseline", ...)``, whose maps come after each quarter of the blocks."""
    options = Options(original, context.where)
    depth = original.get("depth", 12)
    if depth % 4:
        raise options.error(f"depth={depth} must be a multiple of 4, for four maps")
    config = tokenless_vit(options, out_features=[f"stage{depth * i // 4}" for i in (1, 2, 3, 4)])
    options.finish()
    return config


def _neck(config: ViTConfig) -> tuple[PyramidNeckConfig, Iterable[KeyRule]]:
    neck = PyramidNeckConfig(in_channels=[config.hidden_size] * 4, norm="group_norm", layer_norm_eps=config.norm_eps)
    norms = [KeyRule(f"norm{i + 1}.{{}}", f"layer_norms.{i}.{{}}") for i in range(4)]
    return neck, [*norms, KeyRule("up1.{}", "upsample_4x.{}"), KeyRule("up2.{}", "upsample_2x.{}")]


VIT_BASELINE = register(
    BackboneRule(types=("ViTBaseline",), translate=_translate, keys=tuple(timm_vit_keys()), neck=_neck)
)


def _translate_ibot(original: Mapping[str, Any], context: Context) -> ViTConfig:
    options = Options(original, context.where)
    # memory, or pre-training
    options.ignore("use_checkpoint", "return_all_tokens")
    options.in_training("frozen_stages", -1)
    options.expect("use_mean_pooling", False)
    options.expect("masked_im_modeling", False)
    maps = map_names(options.take("out_indices", (3, 5, 7, 11)))
    if options.take("with_fpn", True):
        check_fpn(options, maps, original.get("patch_size", 16))
    sides = image_sides(options.take("img_size", 224))
    if not isinstance(sides, int) and len(set(sides)) != 1:
        raise options.error(f"img_size={sides} must be the side of a square")
    scale = float(options.take("init_values", 0))
    config = ViTConfig(
        image_size=sides,
        interpolation_offset=0.1,
        pad=False,
        layer_scale=scale if scale > 0 else None,
        final_norm=bool(options.take("out_with_norm", False)),
        out_features=maps,
        **timm_vit_options(options, qkv_bias=False),
    )
    options.finish()
    return config


IBOT = register(
    BackboneRule(
        types=("VisionTransformer",),
        translate=_translate_ibot,
        keys=(*timm_vit_keys(scale="gamma_"), KeyRule("norm.{}", "norm.{}")),
        neck=fpn_neck,
        neck_option="with_fpn",
        neck_by_default=True,
        told_by=("embed_dim", "depth", "in_chans", "with_fpn", "out_with_norm", "use_checkpoint"),
    )
)
