"""Mask2FormerHead of mmdetection, as InternImage and ViT-Adapter train it for semantic segmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import MAX_CLASSES
from segzoo.heads.mask2former import Mask2FormerHeadConfig
from segzoo.losses import MaskClassificationLoss


def translate(original: Mapping[str, Any], context: Context) -> Mask2FormerHeadConfig:
    """Translates ``dict(type="Mask2FormerHead", ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg", "test_cfg", "num_things_classes", "num_stuff_classes", "channels", "dropout_ratio")
    num_labels = _num_labels(original, options)
    in_channels, channels = list(options.take("in_channels")), options.take("feat_channels", 256)
    in_index = options.take("in_index", None)
    num_levels = options.take("num_transformer_feat_level", 3)
    _positions(options, channels)
    pixel_decoder, rates = _pixel_decoder(options, channels, num_levels)
    decoder, more_rates = _decoder(options, channels)
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
        "project_levels": bool(options.take("enforce_decoder_input_project", False)),
        "align_corners": bool(options.take("align_corners", False)),
        "dropout": max(rates),
        "losses": [_loss(options, num_labels, context).to_dict()],
    }
    context.take_ignore_index(options)
    options.finish()
    return Mask2FormerHeadConfig(**fields, **pixel_decoder, **decoder)


def _num_labels(original: Mapping[str, Any], options: Options) -> int:
    """The head's number of classes: ``num_classes``, or the sum of its things and stuff."""
    counted = original.get("num_things_classes", 80) + original.get("num_stuff_classes", 53)
    count = options.take("num_classes", counted)
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


def _pixel_decoder(options: Options, channels: int, num_levels: int) -> tuple[dict[str, Any], set[float]]:
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
    fields["encoder_layers"] = encoder.take("num_layers")
    if "layer_cfg" in encoder:
        raise encoder.error(
            "this is Mask2Former of mmsegmentation 1.x, which mmdet 3 spells with layer_cfg; only Mask2Former as "
            "ViT-Adapter and InternImage spell it (transformerlayers) is supported"
        )
    layer = _inner(encoder, "transformerlayers", "BaseTransformerLayer")
    layer.expect("operation_order", ("self_attn", "norm", "ffn", "norm"))
    attention = _inner(layer, "attn_cfgs", "MultiScaleDeformableAttention")
    attention.ignore("im2col_step", "batch_first")
    attention.expect("embed_dims", channels)
    attention.expect("num_levels", num_levels)
    attention.expect("norm_cfg", None)
    fields["encoder_heads"], fields["encoder_points"] = attention.take("num_heads", 8), attention.take("num_points", 4)
    rates = {float(attention.take("dropout", 0.1))}
    attention.finish()
    fields["encoder_hidden_channels"], ffn_rates = _feed_forward(
        layer, channels, layer.take("feedforward_channels", None)
    )
    for part in (layer, encoder, decoder):
        part.finish()
    return fields, rates | ffn_rates


def _decoder(options: Options, channels: int) -> tuple[dict[str, Any], set[float]]:
    decoder = _inner(options, "transformer_decoder", "DetrTransformerDecoder")
    decoder.ignore("return_intermediate")  # the head reads every layer
    post_norm = decoder.take("post_norm_cfg", {"type": "LN"})
    if type_name(post_norm, decoder.where) != "LN" or len(post_norm) > 1:
        raise decoder.error(f"post_norm_cfg={post_norm!r} is not supported (only LN)")
    layer = _inner(decoder, "transformerlayers", "DetrTransformerDecoderLayer")
    layer.expect("operation_order", ("cross_attn", "norm", "self_attn", "norm", "ffn", "norm"))
    attention = _inner(layer, "attn_cfgs", "MultiheadAttention")
    attention.ignore("batch_first")
    attention.expect("embed_dims", channels)
    rates = {float(attention.take("attn_drop", 0.0)), float(attention.take("proj_drop", 0.0))}
    _no_drop_path(attention)
    fields = {"decoder_layers": decoder.take("num_layers"), "decoder_heads": attention.take("num_heads", 8)}
    attention.finish()
    fields["decoder_hidden_channels"], ffn_rates = _feed_forward(
        layer, channels, layer.take("feedforward_channels", None)
    )
    layer.finish()
    decoder.finish()
    return fields, rates | ffn_rates


def _feed_forward(layer: Options, channels: int, hidden: int | None) -> tuple[int, set[float]]:
    ffn = _inner(layer, "ffn_cfgs", "FFN")
    ffn.expect("embed_dims", channels)
    ffn.expect("num_fcs", 2)
    ffn.expect("add_identity", True)
    ffn.activation(only="ReLU")
    _no_drop_path(ffn)
    hidden, rate = ffn.take("feedforward_channels", hidden), float(ffn.take("ffn_drop", 0.0))
    if hidden is None:
        raise ffn.error("the option 'feedforward_channels' is missing")
    ffn.finish()
    return hidden, {rate}


def _no_drop_path(options: Options) -> None:
    layer = options.take("dropout_layer", None)
    if layer is not None and layer.get("drop_prob", 0.0) not in (0, 0.0):
        raise options.error(f"dropout_layer={layer!r} is not supported (only None)")


def _inner(options: Options, name: str, kind: str) -> Options:
    """The options of an inner dict, which must be of one type if it names a type."""
    original = options.take(name)
    place = f"{options.where}.{name}"
    inner = Options(original, place)
    if "type" in original and (found := type_name(original, place)) != kind:
        raise inner.error(f"type {found!r} is not supported (only {kind})")
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
    assigner = _inner(train, "assigner", "MaskHungarianAssigner")
    train.take("sampler", None)
    fields = {
        "num_points": train.take("num_points", 12544),
        "oversample_ratio": train.take("oversample_ratio", 3.0),
        "importance_ratio": train.take("importance_sample_ratio", 0.75),
    }
    costs = {"class": "ClassificationCost", "mask": "CrossEntropyLossCost", "dice": "DiceCost"}
    for part, kind in costs.items():
        cost = _inner(assigner, "cls_cost" if part == "class" else f"{part}_cost", kind)
        fields[f"{part}_cost_weight"] = cost.take("weight", 1.0)
        if part == "mask":
            cost.expect("use_sigmoid", True)
        elif part == "dice":
            cost.expect("pred_act", True)
            cost.expect("eps", 1.0)
            cost.expect("naive_dice", True)
        cost.finish()
    assigner.finish()
    train.finish()
    return fields


def keys(config: Mask2FormerHeadConfig) -> Iterable[KeyRule]:
    """The key rules; ``cls_embed`` is the classifier."""
    yield KeyRule("conv_seg.{}", None)  # the base class of older versions makes it, and nothing uses it
    old, new = "pixel_decoder.encoder.layers.{}", "pixel_decoder.layers.{}"
    yield KeyRule(f"{old}.attentions.0.{{}}", f"{new}.attention.{{}}")
    for i in (0, 1):
        yield KeyRule(f"{old}.norms.{i}.{{}}", f"{new}.norm{i + 1}.{{}}")
    yield from _feed_forward_keys(old, new)
    for name in ("input_convs", "lateral_convs", "output_convs"):
        old = f"pixel_decoder.{name}.{{}}"
        yield KeyRule(f"{old}.conv.{{}}", f"{old}.conv.{{}}")
        yield KeyRule(f"{old}.gn.{{}}", f"{old}.norm.{{}}")
    yield KeyRule("pixel_decoder.level_encoding.{}", "pixel_decoder.level_embed.{}")
    yield KeyRule("pixel_decoder.mask_feature.{}", "pixel_decoder.mask_features.{}")
    yield KeyRule("decoder_input_projs.{}.{}", "level_convs.{}.{}")
    old, new = "transformer_decoder.layers.{}", "layers.{}"
    for i, name in enumerate(("cross_attention", "self_attention")):
        for part in ("weight", "bias"):
            yield KeyRule(f"{old}.attentions.{i}.attn.in_proj_{part}", f"{new}.{name}.in_proj.{part}")
        yield KeyRule(f"{old}.attentions.{i}.attn.out_proj.{{}}", f"{new}.{name}.out_proj.{{}}")
    for i in range(3):
        yield KeyRule(f"{old}.norms.{i}.{{}}", f"{new}.norm{i + 1}.{{}}")
    yield from _feed_forward_keys(old, new)
    yield KeyRule("transformer_decoder.post_norm.{}", "norm.{}")
    yield KeyRule("query_embed.{}", "query_positions.{}")
    yield KeyRule("query_feat.{}", "query_features.{}")
    yield KeyRule("level_embed.{}", "level_embed.{}")
    yield KeyRule("cls_embed.{}", "classifier.{}")
    yield KeyRule("mask_embed.{}.{}", "mask_embed.{}.{}")


def _feed_forward_keys(old: str, new: str) -> Iterable[KeyRule]:
    yield KeyRule(f"{old}.ffns.0.layers.0.0.{{}}", f"{new}.feed_forward.linear1.{{}}")
    yield KeyRule(f"{old}.ffns.0.layers.1.{{}}", f"{new}.feed_forward.linear2.{{}}")


MASK2FORMER = register(HeadRule(types=("Mask2FormerHead",), translate=translate, keys=keys))
