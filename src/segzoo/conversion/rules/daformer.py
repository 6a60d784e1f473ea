"""DAFormerHead of lhoyer/DAFormer."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.layouts import LINEAR
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.aspp import pyramid_keys
from segzoo.conversion.rules.common import conv_module, head_keys, head_options, plain_convolutions
from segzoo.conversion.rules.isanet import relation_keys
from segzoo.heads.daformer import DAFormerHeadConfig


def _translate(original: Mapping[str, Any], context: Context) -> tuple[DAFormerHeadConfig, Iterable[KeyRule]]:
    options = Options(original, context.where)
    options.expect("align_corners", False)
    decoder = Options(options.take("decoder_params"), f"{options.where}.decoder_params")
    widths, embedding = decoder.take("embed_dims"), decoder.take("embed_cfg")
    last = decoder.take("embed_neck_cfg")
    for name, layer in (
        ("embed_cfg", embedding),
        ("embed_neck_cfg", embedding if last == "same_as_embed_cfg" else last),
    ):
        _linear(layer, f"{decoder.where}.{name}")
    fusion = _fusion(decoder.take("fusion_cfg"), f"{decoder.where}.fusion_cfg")
    decoder.finish()
    fields, classifier = head_options(options, context, DAFormerHeadConfig)
    options.finish()
    index = fields["in_index"]
    if index[0] != 0 or len(set(index)) != len(index):
        raise options.error(
            f"in_index={index!r} is not supported (only different maps, the first one before the others)"
        )
    widths = list(widths) if isinstance(widths, (list, tuple)) else [widths] * len(index)
    # Of norm and activation those of the fusion count, whatever the head's own options say.
    config = DAFormerHeadConfig(**{**fields, "align_corners": False, "projected_channels": widths, **fusion})
    return config, (*classifier, *_projection_keys(index))


def _linear(layer: Any, where: str) -> None:
    """Takes the options of a layer that projects a map, which must be linear.

    Raises:
        ConversionError: it is another layer.
    """
    options = Options(layer, where)
    if (kind := type_name(layer, where)) != "mlp":
        raise options.error(f"a layer of type {kind!r} is not supported here (only 'mlp')")
    options.ignore("act_cfg", "norm_cfg")  # which the original does not read
    options.finish()


def _fusion(layer: Any, where: str) -> dict[str, Any]:
    """The fields of our config for the layer that fuses the maps.

    Raises:
        ConversionError: its type or an option of it is not supported.
    """
    options, kind = Options(layer, where), type_name(layer, where)
    if kind == "aspp":
        options.expect("context_cfg", None)
        options.expect("align_corners", False)
        fields = {
            "fusion": "pyramid",
            "separable": bool(options.take("sep")),
            "dilations": list(options.take("dilations")),
            "image_pool": bool(options.take("pool")),
        }
    elif kind == "conv":
        fields = {"fusion": "conv", "kernel_size": options.take("kernel_size")}
    elif kind == "isa":
        options.expect("in_conv_kernel_size", 1)
        fields = {
            "fusion": "attention",
            "attention_channels": options.take("isa_channels"),
            "attention_convs": options.take("key_query_num_convs", 2),
            "attention_block": list(options.take("down_factor", (8, 8))),
            "attention_joins_input": bool(options.take("out_cat_and_conv", False)),
        }
    else:
        raise options.error(f"a fusion of type {kind!r} is not supported (only 'aspp', 'conv' or 'isa')")
    plain_convolutions(options)
    fields |= {**options.norm(), "activation": options.activation()}
    options.finish()
    return fields


def _projection_keys(index: Iterable[int]) -> Iterable[KeyRule]:
    for place, number in enumerate(index):
        yield KeyRule(f"embed_layers.{number}.proj.{{}}", f"projections.{place}.{{}}", change=LINEAR)


def _keys(config: DAFormerHeadConfig) -> Iterable[KeyRule]:
    rules: list[KeyRule] = []
    if config.fusion == "pyramid":
        rules += [rule.inside("fuse_layer.", "") for rule in pyramid_keys("fusion")]
    elif config.fusion == "conv":
        rules += conv_module("fuse_layer", "fusion")
    else:
        rules += conv_module("fuse_layer.in_conv", "fusion.in_conv")
        for theirs, ours in (("global_relation", "far"), ("local_relation", "near")):
            rules += relation_keys(f"fuse_layer.{theirs}", f"fusion.{ours}", convs=config.attention_convs)
        rules += conv_module("fuse_layer.out_conv", "fusion.out_conv")
    return head_keys(rules, config)


register(HeadRule(types=("DAFormerHead",), translate=_translate, keys=_keys))
