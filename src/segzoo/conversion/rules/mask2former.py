"""Mask2FormerHead of mmdetection, as InternImage, ViT-Adapter and mmsegmentation 1.x train it.

The first two are written for mmdetection 2, mmsegmentation 1.x for mmdetection 3, which names the parts of a layer
differently in its options and in its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import MAX_CLASSES
from segzoo.heads.mask2former import Mask2FormerHeadConfig
from segzoo.losses import MaskClassificationLoss


@dataclass(frozen=True, kw_only=True)
class _Spelling:
    """How a generation of mmdetection names the parts of a layer.

    Args:
        layers: option of encoder and decoder that describes their layers.
        self_attention, cross_attention, feed_forward: options of a layer that describe its parts.
        batch_first: the only order of dimensions in which its layers call attentions.
        encoder_key, cross_key, self_key, feed_forward_key: names of these parts in the state dict: the encoder's
            attention, the two of the decoder, and the feed-forward net of both.
    """

    layers: str
    self_attention: str
    cross_attention: str
    feed_forward: str
    batch_first: bool
    encoder_key: str
    cross_key: str
    self_key: str
    feed_forward_key: str


_MMDET_2 = _Spelling(
    layers="transformerlayers",
    self_attention="attn_cfgs",
    cross_attention="attn_cfgs",  # one dict describes both
    feed_forward="ffn_cfgs",
    batch_first=False,
    encoder_key="attentions.0",
    cross_key="attentions.0",
    self_key="attentions.1",
    feed_forward_key="ffns.0",
)
_MMDET_3 = _Spelling(
    layers="layer_cfg",
    self_attention="self_attn_cfg",
    cross_attention="cross_attn_cfg",
    feed_forward="ffn_cfg",
    batch_first=True,
    encoder_key="self_attn",
    cross_key="cross_attn",
    self_key="self_attn",
    feed_forward_key="ffn",
)


_COSTS = {"class": "ClassificationCost", "mask": "CrossEntropyLossCost", "dice": "DiceCost"}  # by part of the loss


def translate(
    original: Mapping[str, Any], context: Context
) -> Mask2FormerHeadConfig | tuple[Mask2FormerHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="Mask2FormerHead", ...)``; with the key rules of the layers where mmdet 3 names them."""
    options = Options(original, context.where)
    options.ignore("init_cfg", "test_cfg", "channels", "dropout_ratio")
    options.ignore("strides")  # which only scale the reference points, and these are divided by them again
    spelling = _MMDET_3 if "layer_cfg" in (original.get("transformer_decoder") or {}) else _MMDET_2
    num_labels = _num_labels(options, context)
    in_channels, channels = list(options.take("in_channels")), options.take("feat_channels", 256)
    in_index = options.take("in_index", None)
    num_levels = options.take("num_transformer_feat_level", 3)
    _positions(options, channels)
    pixel_decoder, rates = _pixel_decoder(options, spelling, channels, num_levels)
    decoder, more_rates = _decoder(options, spelling, channels)
    rates |= more_rates
    if len(rates) > 1:
        context.note(context.where, f"it was trained with several dropout rates; the converted model has {max(rates)}")
    fields = {
        "num_labels": num_labels,
        "in_channels": in_channels,
        "in_index": list(range(len(in_channels)) if in_index is None else in_index),
        "channels": channels,
        "mask_channels": options.take("out_channels", channels),
        "num_queries": options.take("num_queries", 100),
        "num_levels": num_levels,
        # mmsegmentation 1.x resizes the masks before it sums them, also where its config is in mmdet 2's spelling.
        "resize_masks_first": spelling is _MMDET_3 or context.original.is_1x,
        "project_levels": bool(options.take("enforce_decoder_input_project", False)),
        "align_corners": bool(options.take("align_corners", False)),
        "dropout": max(rates),
        "losses": [_loss(options, num_labels, context).to_dict()],
    }
    context.take_ignore_index(options)
    options.finish()
    config = Mask2FormerHeadConfig(**fields, **pixel_decoder, **decoder)
    return config if spelling is _MMDET_2 else (config, tuple(_layer_keys(spelling)))


def _num_labels(options: Options, context: Context) -> int:
    """The head's number of classes: ``num_classes``, or the sum of its things and stuff."""
    said = "num_things_classes" in options or "num_stuff_classes" in options
    counted = options.take("num_things_classes", 80) + options.take("num_stuff_classes", 53)
    count = options.take("num_classes", counted)
    if said and count != counted and not context.original.is_1x:  # 1.x reads num_classes alone
        raise options.error(f"num_classes={count!r}, and num_things_classes and num_stuff_classes make {counted!r}")
    if not isinstance(count, int) or not 1 <= count <= MAX_CLASSES:
        raise options.error(f"{count!r} classes; the number must be an integer, {MAX_CLASSES} at most")
    return count


def _positions(options: Options, channels: int) -> None:
    """Takes the sine encoding of positions, which must have the form that the heads use."""
    inner = _inner(options, "positional_encoding", "SinePositionalEncoding")
    inner.expect("num_feats", channels // 2)
    if inner.take("normalize", False) is not True:
        raise inner.error("positions that are not normalised (normalize=False) are not supported")
    inner.expect("temperature", 10000)
    inner.expect("offset", 0.0)
    inner.finish()


def _pixel_decoder(
    options: Options, spelling: _Spelling, channels: int, num_levels: int
) -> tuple[dict[str, Any], set[float]]:
    decoder = _inner(options, "pixel_decoder", "MSDeformAttnPixelDecoder")
    decoder.ignore("strides", "in_channels", "feat_channels", "out_channels")  # the head's own
    decoder.expect("num_outs", num_levels)
    decoder.activation(only="ReLU")
    norm = _inner(decoder, "norm_cfg", "GN")
    norm.ignore("requires_grad")
    fields = {"norm_groups": norm.take("num_groups", 32)}
    norm.expect("eps", 1e-5)
    norm.finish()
    _positions(decoder, channels)
    encoder = _inner(decoder, "encoder", "DetrTransformerEncoder")
    encoder.ignore("num_cp")
    fields["encoder_layers"] = encoder.take("num_layers")
    layer = _layer(encoder, spelling, "BaseTransformerLayer", ("self_attn", "norm", "ffn", "norm"))
    attention = _inner(layer, spelling.self_attention, "MultiScaleDeformableAttention")
    attention.ignore("im2col_step")
    attention.expect("batch_first", spelling.batch_first)
    attention.expect("embed_dims", channels)
    attention.expect("num_levels", num_levels)
    attention.expect("norm_cfg", None)
    fields["encoder_heads"], fields["encoder_points"] = attention.take("num_heads", 8), attention.take("num_points", 4)
    rates = {float(attention.take("dropout", 0.1))}
    attention.finish()
    fields["encoder_hidden_channels"], ffn_rates = _feed_forward(layer, spelling, channels)
    for part in (layer, encoder, decoder):
        part.finish()
    return fields, rates | ffn_rates


def _decoder(options: Options, spelling: _Spelling, channels: int) -> tuple[dict[str, Any], set[float]]:
    decoder = _inner(options, "transformer_decoder", "DetrTransformerDecoder")
    decoder.ignore("return_intermediate")  # the head reads every layer
    _layer_norm(decoder, "post_norm_cfg")
    fields = {"decoder_layers": decoder.take("num_layers")}
    order = ("cross_attn", "norm", "self_attn", "norm", "ffn", "norm")
    layer = _layer(decoder, spelling, "DetrTransformerDecoderLayer", order)
    rates: set[float] = set()
    for name in dict.fromkeys((spelling.cross_attention, spelling.self_attention)):
        attention = _inner(layer, name, "MultiheadAttention")
        attention.expect("batch_first", spelling.batch_first)
        attention.expect("embed_dims", channels)
        rates |= {float(attention.take(rate, 0.0)) for rate in ("attn_drop", "proj_drop", "dropout")}
        _no_drop_path(attention)
        heads = attention.take("num_heads", 8)
        if fields.setdefault("decoder_heads", heads) != heads:
            raise attention.error(f"num_heads={heads!r}, and {fields['decoder_heads']!r} in the other attention")
        attention.finish()
    fields["decoder_hidden_channels"], ffn_rates = _feed_forward(layer, spelling, channels)
    layer.finish()
    decoder.finish()
    return fields, rates | ffn_rates


def _layer(options: Options, spelling: _Spelling, kind: str, order: tuple[str, ...]) -> Options:
    """The options of a stack's layers, whose parts must come in this order."""
    layer = _inner(options, spelling.layers, kind)
    layer.expect("operation_order", order)
    _layer_norm(layer, "norm_cfg")
    return layer


def _layer_norm(options: Options, name: str) -> None:
    norm = options.take(name, {"type": "LN"})
    if type_name(norm, options.where) != "LN" or len(norm) > 1:
        raise options.error(f"{name}={norm!r} is not supported (only LN)")


def _feed_forward(layer: Options, spelling: _Spelling, channels: int) -> tuple[int, set[float]]:
    of_layer = layer.take("feedforward_channels", None)  # which replaces the net's own in the original too
    ffn = _inner(layer, spelling.feed_forward, "FFN")
    ffn.expect("embed_dims", channels)
    ffn.expect("num_fcs", 2)
    ffn.expect("add_identity", True)
    ffn.activation(only="ReLU")
    _no_drop_path(ffn)
    hidden, rate = ffn.take("feedforward_channels", None), float(ffn.take("ffn_drop", 0.0))
    hidden = hidden if of_layer is None else of_layer
    if hidden is None:
        raise ffn.error("the option 'feedforward_channels' is missing")
    ffn.finish()
    return hidden, {rate}


def _no_drop_path(options: Options) -> None:
    layer = options.take("dropout_layer", None)
    if layer is not None and layer.get("drop_prob", 0.0) not in (0, 0.0):
        raise options.error(f"dropout_layer={layer!r} is not supported (only None)")


def _inner(options: Options, name: str, *kinds: str) -> Options:
    """The options of an inner dict, which must be of one of the types if it names a type."""
    original = options.take(name)
    place = f"{options.where}.{name}"
    inner = Options(original, place)
    if "type" in original and (found := type_name(original, place)) not in kinds:
        raise inner.error(f"type {found!r} is not supported (only {' or '.join(kinds)})")
    inner.ignore("init_cfg", "with_cp")
    return inner


def _loss(options: Options, num_labels: int, context: Context) -> MaskClassificationLoss:
    """The loss from ``loss_cls``, ``loss_mask``, ``loss_dice``, and from the matching in ``train_cfg``."""
    classes = _inner(options, "loss_cls", "CrossEntropyLoss")
    masks = _inner(options, "loss_mask", "CrossEntropyLoss")
    dice = _inner(options, "loss_dice", "DiceLoss")
    classes.expect("use_sigmoid", False)
    for part in (masks, dice):
        part.expect("use_sigmoid", True)
    for option, value in (("activate", True), ("naive_dice", True), ("eps", 1.0)):
        dice.expect(option, value)
    for part in (classes, masks, dice):
        part.expect("reduction", "mean")
        part.ignore("loss_name")
    weights = [1.0] * num_labels + [0.1]
    given = classes.take("class_weight", None)
    if isinstance(given, (list, tuple)) and len(given) == num_labels + 1:
        weights = [float(weight) for weight in given]
    elif given is not None:
        raise classes.error(f"class_weight={given!r:.60} must have a factor for each class and one for 'no object'")
    fields = {
        "class_weights": weights[:-1] if any(weight != 1.0 for weight in weights[:-1]) else None,
        "no_object_weight": weights[-1],
        "class_loss_weight": classes.take("loss_weight", 1.0),
        "mask_loss_weight": masks.take("loss_weight", 1.0),
        "dice_loss_weight": dice.take("loss_weight", 1.0),
    }
    for part in (classes, masks, dice):
        part.finish()
    options.ignore("loss_decode")
    train_cfg = options.take("train_cfg", None) or context.original.train_cfg
    return MaskClassificationLoss(**fields, **_matching(train_cfg))


def _matching(original: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of the matching; empty for a config without them, so that the defaults apply."""
    if not original or "assigner" not in original:
        return {}
    train = Options(original, "model.train_cfg")
    train.take("sampler", None)
    fields = {
        "num_points": train.take("num_points", 12544),
        "oversample_ratio": train.take("oversample_ratio", 3.0),
        "importance_ratio": train.take("importance_sample_ratio", 0.75),
    }
    assigner = _inner(train, "assigner", "MaskHungarianAssigner", "HungarianAssigner")
    costs = _costs(assigner)
    for part, kind in _COSTS.items():
        if kind not in costs:  # a list need not have all
            fields[f"{part}_cost_weight"] = 0.0
            continue
        cost = costs.pop(kind)
        fields[f"{part}_cost_weight"] = cost.take("weight", 1.0)
        if part == "mask":
            cost.expect("use_sigmoid", True)
        elif part == "dice":
            cost.expect("pred_act", True)
            cost.expect("eps", 1.0)
            cost.expect("naive_dice", True)
        cost.finish()
    if costs:
        raise assigner.error(f"costs {', '.join(costs)} are not supported (only {', '.join(_COSTS.values())})")
    assigner.finish()
    train.finish()
    return fields


def _costs(assigner: Options) -> dict[str, Options]:
    """The options of the costs by type: from a list in mmdet 3, from one option each in mmdet 2."""
    if "match_costs" not in assigner:
        names = {"class": "cls_cost"}
        return {kind: _inner(assigner, names.get(part, f"{part}_cost"), kind) for part, kind in _COSTS.items()}
    costs = assigner.take("match_costs")
    place = f"{assigner.where}.match_costs"
    named = [(type_name(cost, place), Options(cost, f"{place}[{i}]")) for i, cost in enumerate(costs)]
    if len(dict(named)) != len(named):
        raise assigner.error("match_costs has two costs of the same type")
    return dict(named)


def keys(config: Mask2FormerHeadConfig) -> Iterable[KeyRule]:
    """The key rules, with the layers in mmdet 2's spelling; ``cls_embed`` is the classifier."""
    yield KeyRule("conv_seg.{}", None)  # the base class of older versions makes it, and nothing uses it
    yield from _layer_keys(_MMDET_2)
    for name in ("input_convs", "lateral_convs", "output_convs"):
        old = f"pixel_decoder.{name}.{{}}"
        yield KeyRule(f"{old}.conv.{{}}", f"{old}.conv.{{}}")
        yield KeyRule(f"{old}.gn.{{}}", f"{old}.norm.{{}}")
    yield KeyRule("pixel_decoder.level_encoding.{}", "pixel_decoder.level_embed.{}")
    yield KeyRule("pixel_decoder.mask_feature.{}", "pixel_decoder.mask_features.{}")
    yield KeyRule("decoder_input_projs.{}.{}", "level_convs.{}.{}")
    yield KeyRule("transformer_decoder.post_norm.{}", "norm.{}")
    yield KeyRule("query_embed.{}", "query_positions.{}")
    yield KeyRule("query_feat.{}", "query_features.{}")
    yield KeyRule("level_embed.{}", "level_embed.{}")
    yield KeyRule("cls_embed.{}", "classifier.{}")
    yield KeyRule("mask_embed.{}.{}", "mask_embed.{}.{}")


def _layer_keys(spelling: _Spelling) -> Iterable[KeyRule]:
    """The key rules of the layers of the pixel decoder's encoder and of the queries' decoder."""
    encoder = "pixel_decoder.encoder.layers.{}", "pixel_decoder.layers.{}", 2
    decoder = "transformer_decoder.layers.{}", "layers.{}", 3
    for old, new, norms in (encoder, decoder):
        for i in range(norms):
            yield KeyRule(f"{old}.norms.{i}.{{}}", f"{new}.norm{i + 1}.{{}}")
        ffn = f"{old}.{spelling.feed_forward_key}.layers"
        yield KeyRule(f"{ffn}.0.0.{{}}", f"{new}.feed_forward.linear1.{{}}")
        yield KeyRule(f"{ffn}.1.{{}}", f"{new}.feed_forward.linear2.{{}}")
    old, new, _ = encoder
    yield KeyRule(f"{old}.{spelling.encoder_key}.{{}}", f"{new}.attention.{{}}")
    old, new, _ = decoder
    for key, name in ((spelling.cross_key, "cross_attention"), (spelling.self_key, "self_attention")):
        for part in ("weight", "bias"):
            yield KeyRule(f"{old}.{key}.attn.in_proj_{part}", f"{new}.{name}.in_proj.{part}")
        yield KeyRule(f"{old}.{key}.attn.out_proj.{{}}", f"{new}.{name}.out_proj.{{}}")


MASK2FORMER = register(HeadRule(types=("Mask2FormerHead",), translate=translate, keys=keys))
