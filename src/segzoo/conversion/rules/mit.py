"""MiT of mmsegmentation (``MixVisionTransformer``) and of SegFormer's authors (``mit_b0`` to ``mit_b5``).

The authors' ``mit_b*`` do not read the options that they are given. Forks that DAFormer began write them the same.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.mit import VARIANTS, MiTConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.layouts import POINTWISE, join, split
from segzoo.conversion.options import Options


def _maps(indices: Iterable[int]) -> list[str]:
    return [f"stage{i + 1}" for i in sorted(set(indices))]


def _translate_mmseg(original: Mapping[str, Any], context: Context) -> MiTConfig:
    options = Options(original, context.where)
    options.ignore("init_cfg", "pretrained", "with_cp")  # initialisation and memory
    options.activation(default="GELU", only="GELU")
    width, stages = options.take("embed_dims", 64), options.take("num_stages", 4)
    heads = list(options.take("num_heads", (1, 2, 4, 8)))
    lists = {
        "depths": options.take("num_layers", (3, 4, 6, 3)),
        "patch_sizes": options.take("patch_sizes", (7, 3, 3, 3)),
        "strides": options.take("strides", (4, 2, 2, 2)),
        "reductions": options.take("sr_ratios", (8, 4, 2, 1)),
    }
    if any(len(entries) != stages for entries in (heads, *lists.values())):
        raise options.error(f"num_stages={stages} differs from the number of entries of a list")
    ratio = options.take("mlp_ratio", 4)
    eps = options.layer_norm_eps() if "norm_cfg" in options else 1e-6
    qkv_bias = bool(options.take("qkv_bias", True))
    config = MiTConfig(
        num_channels=options.take("in_channels", 3),
        channels=[width * count for count in heads],
        num_heads=heads,
        **{name: list(entries) for name, entries in lists.items()},
        mlp_ratios=[ratio] * stages,
        qkv_bias=qkv_bias,
        projection_bias=qkv_bias,  # of PyTorch's attention
        norm_eps=eps,
        patch_norm_eps=eps,
        dropout=float(options.take("drop_rate", 0.0)),
        attention_dropout=float(options.take("attn_drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        out_features=_maps(options.take("out_indices", range(stages))),
    )
    options.finish()
    return config


def _translate_original(original: Mapping[str, Any], context: Context) -> MiTConfig:
    options = Options(original, context.where)
    # initialisation, what no variant reads, and a size that no layer depends on
    options.ignore("init_cfg", "pretrained", "style", "img_size", "num_classes", "pretrain_img_size")
    options.expect("qk_scale", None)
    options.expect("norm_layer", None)
    if original["type"] in VARIANTS:
        options.ignore("drop_rate", "attn_drop_rate", "drop_path_rate", "patch_size", "qkv_bias")
        variant = VARIANTS[original["type"]]
        written = {
            "embed_dims": variant.get("channels", MiTConfig.channels),
            "num_heads": (1, 2, 5, 8),
            "depths": variant.get("depths", MiTConfig.depths),
            "sr_ratios": (8, 4, 2, 1),
            "mlp_ratios": (4, 4, 4, 4),
            "in_chans": 3,
        }
        for name, value in written.items():
            options.expect(name, tuple(value) if isinstance(value, list) else value)
        options.finish()
        return MiTConfig(**variant)
    options.ignore("patch_size")  # stages have patches of 7 and 3 pixels
    channels = list(options.take("embed_dims", (64, 128, 256, 512)))
    config = MiTConfig(
        num_channels=options.take("in_chans", 3),
        channels=channels,
        num_heads=list(options.take("num_heads", (1, 2, 4, 8))),
        depths=list(options.take("depths", (3, 4, 6, 3))),
        reductions=list(options.take("sr_ratios", (8, 4, 2, 1))),
        mlp_ratios=list(options.take("mlp_ratios", (4, 4, 4, 4))),
        qkv_bias=bool(options.take("qkv_bias", False)),
        norm_eps=1e-5,
        dropout=float(options.take("drop_rate", 0.0)),
        attention_dropout=float(options.take("attn_drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
    )
    options.finish()
    return config


def mmseg_mit_keys(config: MiTConfig) -> Iterable[KeyRule]:
    """Key rules of mmsegmentation's spelling, in which queries, keys and values are one tensor."""
    for stage in range(config.num_stages):
        old, new = f"layers.{stage}", f"stages.{stage}"
        attention, theirs = f"{new}.blocks.{{}}.attention", f"{old}.1.{{}}.attn"
        yield KeyRule(f"{old}.0.projection.{{}}", f"{new}.patch_embedding.{{}}")
        yield KeyRule(f"{old}.0.norm.{{}}", f"{new}.patch_norm.{{}}")
        for kind in ("weight", "bias"):
            yield from split(
                f"{theirs}.attn.in_proj_{kind}", [f"{attention}.q.{kind}", f"{attention}.kv.{kind}"], shares=(1, 2)
            )
        yield KeyRule(f"{theirs}.attn.out_proj.{{}}", f"{attention}.proj.{{}}")
        yield KeyRule(f"{theirs}.sr.{{}}", f"{attention}.reduction.{{}}")
        yield KeyRule(f"{theirs}.norm.{{}}", f"{attention}.norm.{{}}")
        for i in (1, 2):
            yield KeyRule(f"{old}.1.{{}}.norm{i}.{{}}", f"{new}.blocks.{{}}.norm{i}.{{}}")
        mlp = f"{new}.blocks.{{}}.mlp"
        yield KeyRule(f"{old}.1.{{}}.ffn.layers.0.{{}}", f"{mlp}.fc1.{{}}", change=POINTWISE)
        yield KeyRule(f"{old}.1.{{}}.ffn.layers.1.{{}}", f"{mlp}.depthwise_conv.{{}}")
        yield KeyRule(f"{old}.1.{{}}.ffn.layers.4.{{}}", f"{mlp}.fc2.{{}}", change=POINTWISE)
        yield KeyRule(f"{old}.2.{{}}", f"{new}.norm.{{}}")


def original_mit_keys(config: MiTConfig) -> Iterable[KeyRule]:
    """Key rules of the authors' spelling."""
    for stage in range(config.num_stages):
        number, new = stage + 1, f"stages.{stage}"
        block = f"{new}.blocks.{{}}"
        yield KeyRule(f"patch_embed{number}.proj.{{}}", f"{new}.patch_embedding.{{}}")
        yield KeyRule(f"patch_embed{number}.norm.{{}}", f"{new}.patch_norm.{{}}")
        yield KeyRule(f"block{number}.{{}}.attn.sr.{{}}", f"{block}.attention.reduction.{{}}")
        yield KeyRule(f"block{number}.{{}}.attn.{{}}", f"{block}.attention.{{}}")
        yield KeyRule(f"block{number}.{{}}.mlp.dwconv.dwconv.{{}}", f"{block}.mlp.depthwise_conv.{{}}")
        yield KeyRule(f"block{number}.{{}}.mlp.{{}}", f"{block}.mlp.{{}}")
        for i in (1, 2):
            yield KeyRule(f"block{number}.{{}}.norm{i}.{{}}", f"{block}.norm{i}.{{}}")
        yield KeyRule(f"norm{number}.{{}}", f"{new}.norm.{{}}")


def transformers_mit_keys(config: MiTConfig) -> Iterable[KeyRule]:
    """Key rules of the files that transformers writes of its SegFormer."""
    encoder = "segformer.encoder"
    for stage in range(config.num_stages):
        old, new = f"{encoder}.block.{stage}.{{}}", f"stages.{stage}"
        attention, theirs = f"{new}.blocks.{{}}.attention", f"{old}.attention"
        yield KeyRule(f"{encoder}.patch_embeddings.{stage}.proj.{{}}", f"{new}.patch_embedding.{{}}")
        yield KeyRule(f"{encoder}.patch_embeddings.{stage}.layer_norm.{{}}", f"{new}.patch_norm.{{}}")
        yield KeyRule(f"{theirs}.self.query.{{}}", f"{attention}.q.{{}}")
        yield from join([f"{theirs}.self.key.{{}}", f"{theirs}.self.value.{{}}"], f"{attention}.kv.{{}}")
        yield KeyRule(f"{theirs}.self.sr.{{}}", f"{attention}.reduction.{{}}")
        yield KeyRule(f"{theirs}.self.layer_norm.{{}}", f"{attention}.norm.{{}}")
        yield KeyRule(f"{theirs}.output.dense.{{}}", f"{attention}.proj.{{}}")
        for i in (1, 2):
            yield KeyRule(f"{old}.layer_norm_{i}.{{}}", f"{new}.blocks.{{}}.norm{i}.{{}}")
            yield KeyRule(f"{old}.mlp.dense{i}.{{}}", f"{new}.blocks.{{}}.mlp.fc{i}.{{}}")
        yield KeyRule(f"{old}.mlp.dwconv.dwconv.{{}}", f"{new}.blocks.{{}}.mlp.depthwise_conv.{{}}")
        yield KeyRule(f"{encoder}.layer_norm.{stage}.{{}}", f"{new}.norm.{{}}")


MMSEG_MIT = register(
    BackboneRule(
        types=("MixVisionTransformer",),
        translate=_translate_mmseg,
        keys=mmseg_mit_keys,
        told_by=(
            *("num_layers", "num_stages", "patch_sizes", "strides", "in_channels", "out_indices"),
            *("mlp_ratio", "norm_cfg", "act_cfg", "with_cp"),
        ),
    )
)
ORIGINAL_MIT = register(
    BackboneRule(
        types=("MixVisionTransformer", *VARIANTS),
        translate=_translate_original,
        keys=original_mit_keys,
        told_by=("depths", "mlp_ratios", "in_chans", "img_size", "patch_size", "qk_scale", "norm_layer"),
    )
)
