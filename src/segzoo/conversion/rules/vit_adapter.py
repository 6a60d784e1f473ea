"""ViTAdapter, BEiTAdapter and UniPerceiverAdapter, of ViT-Adapter's segmentation code; and DINOv2's ViTAdapter after it."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.beit import BeitConfig
from segzoo.backbones.plain_vit import PlainViTConfig
from segzoo.backbones.uniperceiver import UniPerceiverConfig
from segzoo.backbones.vit import ViTConfig
from segzoo.backbones.vit_adapter import ViTAdapterConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.layouts import join
from segzoo.conversion.options import Options
from segzoo.conversion.rules.beit import original_beit
from segzoo.conversion.rules.vit import attention_windows, timm_vit_keys, timm_vit_options, tokenless_vit

# Options of DINOv2's class alone (https://github.com/facebookresearch/dinov2, dinov2/eval/segmentation_m2f).
_DINOV2 = frozenset({"use_cls", "freeze_vit", "ffn_type", "pre_norm", "memeff"})


def translate_vit(original: Mapping[str, Any], context: Context) -> ViTAdapterConfig:
    """Translates ``dict(type="ViTAdapter", ...)``, whose ViT has no class token, and DINOv2's of the same name, which has."""
    options = Options(original, context.where)
    if not _DINOV2 & original.keys():
        return _adapter(options, tokenless_vit(options))
    options.ignore("memeff")  # how attention is computed
    pre_norm = bool(options.take("pre_norm", False))
    vit = tokenless_vit(
        options,
        class_token=bool(options.take("use_cls", True)),
        gated=options.expect("ffn_type", "mlp", "swiglu") == "swiglu",
        pre_norm=pre_norm,
        patch_bias=not pre_norm,
        pad=False,
    )
    return _adapter(options, vit, freeze_vit=bool(options.take("freeze_vit", False)))


def translate_beit(original: Mapping[str, Any], context: Context) -> ViTAdapterConfig:
    """Translates ``dict(type="BEiTAdapter", ...)``, which is also used for BEiTv2."""
    options = Options(original, context.where)
    options.ignore("pretrain_size")  # of absolute positions
    beit = original_beit(options, image_size=512, absolute=False, layer_scale=0.0)
    if beit.absolute_positions or not beit.relative_positions:
        raise options.error(
            "a BEiT with absolute positions (use_abs_pos_emb), or without tables of relative ones (use_rel_pos_bias), "
            "is not supported"
        )
    return _adapter(options, beit, injector_scale=beit.layer_scale)


def translate_uniperceiver(original: Mapping[str, Any], context: Context) -> ViTAdapterConfig:
    """Translates ``dict(type="UniPerceiverAdapter", ...)``, whose layer norms all have PyTorch's epsilon."""
    options = Options(original, context.where)
    options.ignore("pretrain_size")  # not read; the position embeddings are for img_size
    options.expect("patch_size", 16)
    options.expect("embed_layer", None)
    fields = timm_vit_options(options)
    if not fields.pop("qkv_bias"):
        raise options.error("qkv_bias=False is not supported")
    if attention_windows(options, fields["num_hidden_layers"]):
        raise options.error(
            "attention in windows (window_attn), which pads before its projection here, is not supported"
        )
    vit = UniPerceiverConfig(image_size=options.take("img_size", 224), **fields)
    return _adapter(options, vit, norm_eps=vit.norm_eps)


def adapter_fields(options: Options, *, heads: int, ratio: float) -> dict[str, Any]:
    """Takes the options of the branch, whose names all originals share, and returns fields of our config.

    Args:
        options: the backbone's options.
        heads, ratio: the original's defaults.
    """
    mlp_ratio = float(options.take("cffn_ratio", 0.25))
    return {
        "add_vit_features": bool(options.take("add_vit_feature", True)),
        "branch_channels": options.take("conv_inplane", 64),
        "deform_num_heads": options.take("deform_num_heads", heads),
        "deform_num_points": options.take("n_points", 4),
        "deform_ratio": float(options.take("deform_ratio", ratio)),
        "mlp_ratio": mlp_ratio if options.take("with_cffn", True) else 0.0,
        "extra_extractors": 2 if options.take("use_extra_extractor", True) else 0,
    }


def _adapter(
    options: Options,
    vit: PlainViTConfig,
    *,
    injector_scale: float | None = None,
    norm_eps: float = 1e-6,
    freeze_vit: bool = False,
) -> ViTAdapterConfig:
    """The adapter's config, over a ViT, from the options that are left.

    Raises:
        ConversionError: the groups of blocks do not follow each other, or one of the options is not known.
    """
    blocks, depth = options.take("interaction_indexes"), vit.num_hidden_layers
    starts = [0, *(part[-1] + 1 for part in blocks[:-1])]
    if [part[0] for part in blocks] != starts or blocks[-1][-1] != depth - 1:
        raise options.error(
            f"interaction_indexes={blocks} must be groups, one behind the other, of all {depth} blocks"
        )
    fields = adapter_fields(options, heads=6, ratio=1.0)
    if fields["add_vit_features"] and len(blocks) != 4:
        raise options.error(f"interaction_indexes={blocks} must be four groups, unless add_vit_feature=False")
    config = ViTAdapterConfig(
        vit_config=vit,
        num_channels=vit.num_channels,
        freeze_vit=freeze_vit,
        interaction_layers=[part[-1] + 1 for part in blocks],
        injector_scale=float(options.take("init_values", 0.0)) if injector_scale is None else injector_scale,
        drop_path_rate=vit.drop_path_rate,
        norm_eps=norm_eps,
        **fields,
    )
    options.finish()
    return config


def keys(config: ViTAdapterConfig) -> Iterable[KeyRule]:
    """The key rules over a ViT or BEiT; in the original the ViT's keys are among the adapter's."""
    if isinstance(config.vit_config, ViTConfig):
        yield KeyRule("norm_pre.{}", "vit.pre_norm.{}")
        if config.vit_config.gated:
            parts = [f"blocks.{{}}.mlp.{part}.{{}}" for part in ("w1", "w2")]
            yield from join(parts, "vit.layers.{}.mlp.fc1.{}")
            yield KeyRule("blocks.{}.mlp.w3.{}", "vit.layers.{}.mlp.fc2.{}")
    yield from timm_vit_keys(new="vit.", scale="gamma_" if isinstance(config.vit_config, BeitConfig) else "gamma")
    yield from branch_keys(config)


def uniperceiver_keys(config: ViTAdapterConfig) -> Iterable[KeyRule]:
    """The key rules over a Uni-Perceiver, whose layers are called as in BERT."""
    embed, old, new = "visual_embed.patch_embed", "layers.{}", "vit.layers.{}"
    yield KeyRule(f"{embed}.spatial_pos_embed.weight", "vit.position_embeddings")
    yield KeyRule(f"{embed}.temporal_pos_embed.weight", "vit.frame_embeddings")
    yield KeyRule(f"{embed}.proj.{{}}", "vit.patch_embedding.{}")
    yield KeyRule("visual_embed.embeddings_norm.{}", "vit.embedding_norm.{}")
    for i in (1, 2):
        yield KeyRule(f"{old}.gamma_{i}", f"{new}.scale{i}")
        yield KeyRule(f"{old}.norm{i}.{{}}", f"{new}.norm{i}.{{}}")
        yield KeyRule(f"{old}.linear{i}.{{}}", f"{new}.mlp.fc{i}.{{}}")
    yield KeyRule(f"{old}.self_attn.in_proj.{{}}", f"{new}.attention.qkv.{{}}")
    yield KeyRule(f"{old}.self_attn.out_proj.{{}}", f"{new}.attention.proj.{{}}")
    yield from branch_keys(config)


def branch_keys(config: ViTAdapterConfig) -> Iterable[KeyRule]:
    """The key rules of the adapter's own weights."""
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
UNIPERCEIVER_ADAPTER = register(
    BackboneRule(types=("UniPerceiverAdapter",), translate=translate_uniperceiver, keys=uniperceiver_keys)
)
