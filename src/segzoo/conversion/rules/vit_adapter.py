"""ViTAdapter and BEiTAdapter, of ViT-Adapter's segmentation code."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.beit import BeitConfig
from segzoo.backbones.vit import ViTConfig
from segzoo.backbones.vit_adapter import ViTAdapterConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.vit import timm_vit_keys


def translate_vit(original: Mapping[str, Any], context: Context) -> ViTAdapterConfig:
    """Translates ``dict(type="ViTAdapter", ...)``, whose ViT has no class token."""
    options = Options(original, context.where)
    depth = options.take("depth", 12)
    windowed = list(options.take("window_attn", None) or [False] * depth)
    sides = list(options.take("window_size", None) or [None] * depth)
    if len(windowed) != depth or len(sides) != depth:
        raise options.error(f"window_attn and window_size need one entry for each of {depth} blocks")
    if any(flag and not side for flag, side in zip(windowed, sides, strict=True)):
        raise options.error("window_attn is set where window_size is not")
    windows = [side if flag else 0 for flag, side in zip(windowed, sides, strict=True)]
    options.ignore("img_size")  # the checkpoint's position embeddings are for pretrain_size
    options.expect("pretrained", None)
    vit = ViTConfig(
        image_size=options.take("pretrain_size", 224),
        class_token=False,
        layer_scale=1.0 if options.take("layer_scale", True) else None,
        windows=windows if any(windows) else [],
        **_shared(options, depth),
    )
    return _adapter(options, vit, depth, injector_scale=float(options.take("init_values", 0.0)))


def translate_beit(original: Mapping[str, Any], context: Context) -> ViTAdapterConfig:
    """Translates ``dict(type="BEiTAdapter", ...)``, which is also used for BEiTv2."""
    options = Options(original, context.where)
    depth = options.take("depth", 12)
    options.expect("use_abs_pos_emb", False, None)
    options.expect("use_shared_rel_pos_bias", False)
    if not options.take("use_rel_pos_bias", False):
        raise options.error("a BEiT without tables of relative positions (use_rel_pos_bias) is not supported")
    options.ignore("pretrain_size")
    size, scale = options.take("img_size", 224), options.take("init_values", None)
    beit = BeitConfig(
        image_size=size if isinstance(size, int) else list(size), layer_scale=scale or None, **_shared(options, depth)
    )
    return _adapter(options, beit, depth, injector_scale=float(scale or 0.0))


def _shared(options: Options, depth: int) -> dict[str, Any]:
    """The fields that ViTConfig and BeitConfig share."""
    options.expect("qk_scale", None)
    options.expect("norm_layer", None)
    return {
        "hidden_size": options.take("embed_dim", 768),
        "num_hidden_layers": depth,
        "num_attention_heads": options.take("num_heads", 12),
        "mlp_ratio": float(options.take("mlp_ratio", 4.0)),
        "patch_size": options.take("patch_size", 16),
        "num_channels": options.take("in_chans", 3),
        "qkv_bias": bool(options.take("qkv_bias", True)),
        "dropout": float(options.take("drop_rate", 0.0)),
        "attention_dropout": float(options.take("attn_drop_rate", 0.0)),
        "drop_path_rate": float(options.take("drop_path_rate", 0.0)),
    }


def _adapter(options: Options, vit: ViTConfig | BeitConfig, depth: int, *, injector_scale: float) -> ViTAdapterConfig:
    """The adapter's config, over a ViT, from the adapter's own options."""
    options.ignore(
        "init_cfg", "with_cp", "num_classes"
    )  # training and initialisation, or a classifier that is not there
    options.expect("add_vit_feature", True)
    options.expect("with_cffn", True)
    blocks = options.take("interaction_indexes")
    starts = [0, *(part[-1] + 1 for part in blocks[:-1])]
    if [part[0] for part in blocks] != starts or len(blocks) != 4 or blocks[-1][-1] != depth - 1:
        raise options.error(
            f"interaction_indexes={blocks} must be four groups, one behind the other, of all {depth} blocks"
        )
    config = ViTAdapterConfig(
        vit_config=vit,
        num_channels=vit.num_channels,
        interaction_layers=[part[-1] + 1 for part in blocks],
        branch_channels=options.take("conv_inplane", 64),
        deform_num_heads=options.take("deform_num_heads", 6),
        deform_num_points=options.take("n_points", 4),
        deform_ratio=float(options.take("deform_ratio", 1.0)),
        mlp_ratio=float(options.take("cffn_ratio", 0.25)),
        extra_extractors=2 if options.take("use_extra_extractor", True) else 0,
        injector_scale=injector_scale,
        drop_path_rate=vit.drop_path_rate,
    )
    options.finish()
    return config


def keys(config: ViTAdapterConfig) -> Iterable[KeyRule]:
    """The key rules; in the original the ViT's keys are among the adapter's."""
    yield from timm_vit_keys(new="vit.", scale="gamma_" if isinstance(config.vit_config, BeitConfig) else "gamma")
    yield KeyRule("level_embed", "level_embeddings")
    for i in range(3):  # convolution, norm, ReLU, three times
        yield KeyRule(f"spm.stem.{3 * i}.{{}}", f"spatial_prior.stem.{i}.conv.{{}}")
        yield KeyRule(f"spm.stem.{3 * i + 1}.{{}}", f"spatial_prior.stem.{i}.norm.{{}}")
        yield KeyRule(f"spm.conv{i + 2}.0.{{}}", f"spatial_prior.stages.{i}.conv.{{}}")
        yield KeyRule(f"spm.conv{i + 2}.1.{{}}", f"spatial_prior.stages.{i}.norm.{{}}")
    for i in range(4):
        yield KeyRule(f"spm.fc{i + 1}.{{}}", f"spatial_prior.projections.{i}.{{}}")
        yield KeyRule(f"norm{i + 1}.{{}}", f"norms.{i}.{{}}")
    yield KeyRule("interactions.{}.injector.gamma", "interactions.{}.injector.scale")
    yield from _reader("interactions.{}.injector", "interactions.{}.injector")
    extractors = [("interactions.{}.extractor", "interactions.{}.extractors.0")]
    for i in range(config.extra_extractors):
        extractors.append((f"interactions.{{}}.extra_extractors.{i}", f"interactions.{{}}.extractors.{i + 1}"))
    for old, new in extractors:
        yield from _reader(old, new)
        yield KeyRule(f"{old}.ffn_norm.{{}}", f"{new}.mlp_norm.{{}}")
        yield KeyRule(f"{old}.ffn.dwconv.dwconv.{{}}", f"{new}.mlp.depthwise_conv.{{}}")
        yield KeyRule(f"{old}.ffn.{{}}", f"{new}.mlp.{{}}")
    yield KeyRule("up.{}", "upsample.{}")


def _reader(old: str, new: str) -> Iterable[KeyRule]:
    yield KeyRule(f"{old}.query_norm.{{}}", f"{new}.query_norm.{{}}")
    yield KeyRule(f"{old}.feat_norm.{{}}", f"{new}.feature_norm.{{}}")
    yield KeyRule(f"{old}.attn.{{}}", f"{new}.attention.{{}}")


VIT_ADAPTER = register(BackboneRule(types=("ViTAdapter",), translate=translate_vit, keys=keys))
BEIT_ADAPTER = register(BackboneRule(types=("BEiTAdapter",), translate=translate_beit, keys=keys))
