"""PoolFormer of its authors (``poolformer_s12_feat`` and others) and of mmpretrain; the tensors have the same names."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.poolformer import VARIANTS, PoolFormerConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options, type_name

_STAGES = 4
# Options of ResNet that configs keep from the one they derive from, and that the authors' class does not read.
LEFT_OVER = (
    *("depth", "num_stages", "out_indices", "dilations", "strides", "norm_cfg", "norm_eval", "style"),
    *("contract_dilation", "init_cfg", "pretrained"),
)


def _shared_options(options: Options) -> dict[str, Any]:
    """What both spellings have: patches, neighbourhoods and rates."""
    first = [options.take(name, default) for name, default in (("in_patch_size", 7), ("in_stride", 4), ("in_pad", 2))]
    later = [
        options.take(name, default) for name, default in (("down_patch_size", 3), ("down_stride", 2), ("down_pad", 1))
    ]
    names = ("patch_sizes", "strides", "paddings")
    lists = {name: [one, *[other] * (_STAGES - 1)] for name, one, other in zip(names, first, later, strict=True)}
    return lists | {
        "pool_size": options.take("pool_size", 3),
        "dropout": float(options.take("drop_rate", 0.0)),
        "drop_path_rate": float(options.take("drop_path_rate", 0.0)),
    }


def _translate_authors(original: Mapping[str, Any], context: Context) -> PoolFormerConfig:
    options = Options(original, context.where)
    options.ignore(*LEFT_OVER, "num_classes")
    for name in ("norm_layer", "act_layer"):
        options.expect(name, None)
    fields = dict(VARIANTS[original["type"].removesuffix("_feat")])
    scale = options.take("layer_scale_init_value", fields.get("layer_scale", PoolFormerConfig.layer_scale))
    fields["layer_scale"] = float(scale) if options.take("use_layer_scale", True) else None
    config = PoolFormerConfig(**fields | _shared_options(options))
    options.finish()
    return config


def _translate_mmpretrain(original: Mapping[str, Any], context: Context) -> PoolFormerConfig:
    options = Options(original, context.where)
    options.ignore("init_cfg")
    options.in_training("frozen_stages", 0, usual=(-1,))  # 0 freezes the patches
    options.activation(default="GELU", only="GELU")
    arch = options.take("arch", "s12")
    if isinstance(arch, Mapping):
        own = Options(arch, f"{options.where}.arch")
        fields = {"depths": list(own.take("layers")), "channels": list(own.take("embed_dims"))}
        fields["mlp_ratios"] = list(own.take("mlp_ratios", [4] * _STAGES))
        fields["layer_scale"] = float(own.take("layer_scale_init_value", 1e-5))
        own.finish()
        widths = fields["channels"]
        if len(widths) != _STAGES or any(a == b for a, b in zip(widths, widths[1:], strict=False)):
            raise options.error(
                f"embed_dims={widths} are not supported (only those of {_STAGES} stages, each of another width than the one "
                "before it)"
            )
    elif f"poolformer_{arch}" in VARIANTS:
        fields = dict(VARIANTS[f"poolformer_{arch}"])
    else:
        raise options.error(f"arch={arch!r} is unknown")
    config = PoolFormerConfig(
        **fields | _shared_options(options), norm_eps=_group_norm_eps(options), out_features=_maps(options)
    )
    options.finish()
    return config


def _group_norm_eps(options: Options) -> float:
    """Takes ``norm_cfg``, which must be a group norm of one group, and returns its eps."""
    given = options.take("norm_cfg", {"type": "GN", "num_groups": 1})
    place = f"{options.where}.norm_cfg"
    norm, kind = Options(given, place), type_name(given, place)
    norm.in_training("requires_grad", True)
    norm.expect("affine", True)
    if kind != "GN" or norm.take("num_groups") != 1:
        raise options.error(f"norm_cfg={given!r} is not supported (only GN of one group)")
    eps = float(norm.take("eps", 1e-5))
    norm.finish()
    return eps


def _maps(options: Options) -> list[str]:
    """Takes ``out_indices``, which count stages and the steps between them."""
    given = options.take("out_indices", -1)
    layers = 2 * _STAGES - 1
    indices = sorted({i + layers if i < 0 else i for i in ([given] if isinstance(given, int) else given)})
    if not indices or any(i % 2 or not 0 <= i < layers for i in indices):
        raise options.error(f"out_indices={given!r} are not supported (only those of stages, 0, 2, 4 and 6)")
    return [f"stage{i // 2 + 1}" for i in indices]


def poolformer_keys(config: PoolFormerConfig) -> Iterable[KeyRule]:
    """The key rules. Norms of maps that are not returned are left out, for they are never run."""
    yield KeyRule("patch_embed.proj.{}", "patch_embeddings.0.{}")
    for stage, name in enumerate(config.stage_names):
        number, new = 2 * stage, f"stages.{stage}.{{}}"
        if stage:
            yield KeyRule(f"network.{number - 1}.proj.{{}}", f"patch_embeddings.{stage}.{{}}")
        block = f"network.{number}.{{}}"
        for i in (1, 2):
            yield KeyRule(f"{block}.norm{i}.{{}}", f"{new}.norm{i}.{{}}")
            yield KeyRule(f"{block}.mlp.fc{i}.{{}}", f"{new}.fc{i}.{{}}")
            yield KeyRule(f"{block}.layer_scale_{i}", f"{new}.scale{i}")
        yield KeyRule(f"norm{number}.{{}}", f"norms.{name}.{{}}" if name in config.out_features else None)


AUTHORS = register(
    BackboneRule(types=tuple(f"{name}_feat" for name in VARIANTS), translate=_translate_authors, keys=poolformer_keys)
)
MMPRETRAIN = register(BackboneRule(types=("PoolFormer",), translate=_translate_mmpretrain, keys=poolformer_keys))
