"""Twins PCPVT and SVT: of mmsegmentation, and of its authors' repository, whose types are fixed sizes."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.twins import VARIANTS, TwinsConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.layouts import split
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import refuse_namesakes

MMSEG_EPS = 1e-5  # of all norms

# The authors' types -> our variants.
_SIZES = ("small", "base", "large")
ORIGINALS = {
    **{
        f"{name}_{size}{tail}": f"twins_{ours}_{size}"
        for name, ours, tails in (("pcpvt", "pcpvt", ("", "_v0")), ("alt_gvt", "svt", ("",)))
        for tail in tails
        for size in _SIZES
    }
}


def _translate_mmseg(original: Mapping[str, Any], context: Context) -> TwinsConfig:
    options = Options(original, context.where)
    refuse_namesakes(options, context, "takes its sizes by arch and names its weights otherwise")
    options.ignore("init_cfg", "pretrained")
    grouped = type_name(original, context.where) == "SVT"
    if (eps := options.layer_norm_eps()) != MMSEG_EPS:
        raise options.error(f"layer norms with eps={eps!r} are not supported (only {MMSEG_EPS})")
    strides, patches = options.take("strides", (4, 2, 2, 2)), options.take("patch_sizes", (4, 2, 2, 2))
    if list(strides) != list(patches):
        raise options.error(
            f"patches that overlap or leave gaps (patch_sizes={patches!r}, strides={strides!r}) are not supported"
        )
    depths = list(options.take("depths", (4, 4, 4) if grouped else (3, 4, 6, 3)))
    count = len(depths)
    defaults = {
        "channels": (64, 128, 256, 512),
        "num_heads": (1, 2, 4, 8),
        "reductions": (4, 2, 1) if grouped else (8, 4, 2, 1),
    }
    lists = {
        "channels": options.take("embed_dims", defaults["channels"][:count]),
        "num_heads": options.take("num_heads", defaults["num_heads"][:count]),
        "mlp_ratios": options.take("mlp_ratios", (4,) * count),
        "reductions": options.take("sr_ratios", defaults["reductions"]),
        "strides": strides,
    }
    if grouped:
        lists["windows"] = options.take("windiow_sizes", (7,) * count)
    qkv_bias = bool(options.take("qkv_bias", False))
    config = TwinsConfig(
        **{name: list(values)[:count] for name, values in lists.items()},
        depths=depths,
        num_channels=options.take("in_channels", 3),
        qkv_bias=qkv_bias,
        projection_bias=qkv_bias,  # of PyTorch's attention; that within windows always has one
        stage_norm=bool(options.take("norm_after_stage", grouped)),
        norm_eps=MMSEG_EPS,
        patch_norm_eps=MMSEG_EPS,
        dropout=float(options.take("drop_rate", 0.0)),
        attention_dropout=float(options.take("attn_drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.2 if grouped else 0.0)),
        drop_path_twice=True,
        out_features=[f"stage{i + 1}" for i in sorted(set(options.take("out_indices", (0, 1, 2, 3)))) if i < count],
    )
    options.finish()
    return config


def mmseg_keys(config: TwinsConfig) -> Iterable[KeyRule]:
    """The key rules of mmsegmentation's spelling."""
    yield KeyRule("patch_embeds.{}.projection.{}", "stages.{}.patch_embedding.{}")
    yield KeyRule("position_encodings.{}.proj.{}", "stages.{}.position_encoding.{}")
    yield from _shared_keys("layers")
    old, new = "layers.{}.{}.attn", "stages.{}.blocks.{}.attention"
    for kind in ("weight", "bias"):
        yield from split(f"{old}.attn.in_proj_{kind}", [f"{new}.q.{kind}", f"{new}.kv.{kind}"], shares=(1, 2))
    for stage, depth in enumerate(config.depths):  # whose projection has another name within windows
        for block in range(depth):
            if config.window(stage, block):
                yield KeyRule(
                    f"layers.{stage}.{block}.attn.proj.{{}}", f"stages.{stage}.blocks.{block}.attention.proj.{{}}"
                )
    yield KeyRule(f"{old}.attn.out_proj.{{}}", f"{new}.proj.{{}}")
    yield KeyRule("layers.{}.{}.ffn.layers.0.0.{}", "stages.{}.blocks.{}.mlp.fc1.{}")
    yield KeyRule("layers.{}.{}.ffn.layers.1.{}", "stages.{}.blocks.{}.mlp.fc2.{}")


def _shared_keys(blocks: str) -> Iterable[KeyRule]:
    """Key rules that both spellings have, where the list of the stages' blocks is called ``blocks``."""
    yield KeyRule("patch_embeds.{}.norm.{}", "stages.{}.patch_norm.{}")
    old, new = f"{blocks}.{{}}.{{}}", "stages.{}.blocks.{}"
    for i in (1, 2):
        yield KeyRule(f"{old}.norm{i}.{{}}", f"{new}.norm{i}.{{}}")
    yield KeyRule(f"{old}.attn.sr.{{}}", f"{new}.attention.reduction.{{}}")
    yield KeyRule(f"{old}.attn.norm.{{}}", f"{new}.attention.norm.{{}}")
    yield KeyRule(f"{old}.attn.qkv.{{}}", f"{new}.attention.qkv.{{}}")
    yield KeyRule("norm_list.{}.{}", "stages.{}.norm.{}")  # last: our name fits those of norms of attention too


def original_keys() -> Iterable[KeyRule]:
    """The key rules of the authors' spelling; their backbone keeps the classifier, which it never runs."""
    yield KeyRule("norm.{}", None)
    yield KeyRule("head.{}", None)
    yield KeyRule("patch_embeds.{}.proj.{}", "stages.{}.patch_embedding.{}")
    yield KeyRule("pos_block.{}.proj.0.{}", "stages.{}.position_encoding.{}")
    yield from _shared_keys("blocks")
    for name in ("attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        yield KeyRule(
            f"blocks.{{}}.{{}}.{name}.{{}}", f"stages.{{}}.blocks.{{}}.{name.replace('attn', 'attention')}.{{}}"
        )


def _translate_original(original: Mapping[str, Any], context: Context) -> TwinsConfig:
    options = Options(original, context.where)
    # The classes take no options but swallow any, as this one and their own drop path, which acts in training only.
    options.ignore("init_cfg", "pretrained", "style", "drop_path_rate")
    options.finish()
    variant = VARIANTS[ORIGINALS[type_name(original, context.where)]]
    return TwinsConfig(**variant, pad_patches=False, mask_padding=False)


MMSEG_TWINS = register(BackboneRule(types=("PCPVT", "SVT"), translate=_translate_mmseg, keys=mmseg_keys))
ORIGINAL_TWINS = register(
    BackboneRule(types=tuple(ORIGINALS), translate=_translate_original, keys=tuple(original_keys()))
)
