"""DINOv3's ViT under the adapter of its segmentation code (https://github.com/facebookresearch/dinov3).

The publisher's code builds its models itself; a config names its classes, with the arguments that they are made with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from segzoo.backbones.vit_adapter import ViTAdapterConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.layouts import Reshape, split
from segzoo.conversion.options import Options
from segzoo.conversion.rules.queries import part_of
from segzoo.conversion.rules.vit_adapter import adapter_fields, branch_keys

_ALIGNED = {"swiglu": 8, "swiglu32": 32, "swiglu64": 64, "swiglu128": 128}
_NORM_EPS = {"layernorm": 1e-6, "layernormbf16": 1e-5}


def _vit(options: Options) -> PreTrainedConfig:
    """Takes the options of ``DinoVisionTransformer``, and returns transformers' config of the same ViT.

    Raises:
        ConversionError: an option is not supported, among them biases of queries, keys and values, of which the keys'
            are masked.
    """
    options.ignore("mask_k_bias", "untie_global_and_local_cls_norm")  # of those biases, and in training alone
    options.expect("qkv_bias", False)
    options.expect("untie_cls_and_patch_norms", False)
    options.expect("pos_embed_rope_min_period", None)
    options.expect("pos_embed_rope_max_period", None)
    options.expect("pos_embed_rope_normalize_coords", "separate")
    options.expect("pos_embed_rope_dtype", "fp32")
    width = options.take("embed_dim", 768)
    kind = options.expect("ffn_layer", "mlp", "swiglu", "swiglu32", "swiglu64", "swiglu128")
    hidden = int(width * options.take("ffn_ratio", 4.0))
    if kind in _ALIGNED:
        hidden = -(-int(hidden * 2 / 3) // _ALIGNED[kind]) * _ALIGNED[kind]
    scale = options.take("layerscale_init", None)
    if not scale:
        raise options.error(f"layerscale_init={scale!r}: a ViT without learned scales is not supported")
    changes = ("shift", "jitter", "rescale")  # of positions, in training alone
    ranges = {f"pos_embed_{name}": options.take(f"pos_embed_rope_{name}_coords", None) for name in changes}
    config = AutoConfig.for_model(
        "dinov3_vit",
        patch_size=options.take("patch_size", 16),
        image_size=options.take("img_size", 224),
        num_channels=options.take("in_chans", 3),
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=options.take("depth", 12),
        num_attention_heads=options.take("num_heads", 12),
        hidden_act="gelu" if kind == "mlp" else "silu",
        use_gated_mlp=kind != "mlp",
        layer_norm_eps=_NORM_EPS[options.expect("norm_layer", "layernorm", "layernormbf16")],
        rope_theta=float(options.take("pos_embed_rope_base", 100.0)),
        query_bias=False,
        key_bias=False,
        value_bias=False,
        proj_bias=bool(options.take("proj_bias", True)),
        mlp_bias=bool(options.take("ffn_bias", True)),
        layerscale_value=float(scale),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
        num_register_tokens=options.take("n_storage_tokens", 0),
        **{name: None if value is None else float(value) for name, value in ranges.items()},
    )
    options.finish()
    return config


def _translate(original: Mapping[str, Any], context: Context) -> ViTAdapterConfig:
    """Translates ``dict(type="DINOv3_Adapter", backbone=dict(...), ...)``, which reads from a frozen ViT."""
    options = Options(original, context.where)
    vit = _vit(part_of(options, "backbone", "DinoVisionTransformer"))
    options.ignore("pretrain_size", "init_values")  # of positions and injectors, which there are none of
    config = ViTAdapterConfig(
        vit_config=vit,
        num_channels=vit.num_channels,
        freeze_vit=True,
        injectors=False,
        read_normalized=True,
        interaction_layers=[index + 1 for index in options.take("interaction_indexes", [9, 19, 29, 39])],
        drop_path_rate=float(options.take("drop_path_rate", 0.3)),
        **adapter_fields(options, heads=16, ratio=0.5),
    )
    options.ignore("with_cp")
    options.finish()
    return config


def _keys(config: ViTAdapterConfig) -> Iterable[KeyRule]:
    embed, old, new = "vit.embeddings", "backbone.blocks.{}", "vit.model.layer.{}"
    yield KeyRule("backbone.rope_embed.periods", None)  # computed
    yield KeyRule("backbone.local_cls_norm.{}", None)  # of the pre-training
    yield KeyRule("backbone.cls_token", f"{embed}.cls_token")
    yield KeyRule("backbone.storage_tokens", f"{embed}.register_tokens")
    yield KeyRule("backbone.mask_token", f"{embed}.mask_token", change=Reshape(original=(1, -1), native=(1, 1, -1)))
    yield KeyRule("backbone.patch_embed.proj.{}", f"{embed}.patch_embeddings.{{}}")
    yield from split(f"{old}.attn.qkv.weight", [f"{new}.attention.{part}_proj.weight" for part in "qkv"])
    yield KeyRule(f"{old}.attn.proj.{{}}", f"{new}.attention.o_proj.{{}}")
    for i in (1, 2):
        yield KeyRule(f"{old}.norm{i}.{{}}", f"{new}.norm{i}.{{}}")
        yield KeyRule(f"{old}.ls{i}.gamma", f"{new}.layer_scale{i}.lambda1")
    names = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
    if not config.vit_config.use_gated_mlp:
        names = {"fc1": "up_proj", "fc2": "down_proj"}
    for part, name in names.items():
        yield KeyRule(f"{old}.mlp.{part}.{{}}", f"{new}.mlp.{name}.{{}}")
    yield KeyRule("backbone.norm.{}", "vit.norm.{}")
    yield from branch_keys(config)


DINOV3_ADAPTER = register(BackboneRule(types=("DINOv3_Adapter",), translate=_translate, keys=_keys))
