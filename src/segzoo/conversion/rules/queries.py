"""What the rules of mmdetection's heads with queries share: Mask2Former's and MaskFormer's.

InternImage and ViT-Adapter are written for mmdetection 2, mmsegmentation 1.x for mmdetection 3, which names the parts of
a layer differently in its options and in its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segzoo.conversion.keys import Context, KeyRule
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import MAX_CLASSES


@dataclass(frozen=True, kw_only=True)
class Spelling:
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


MMDET_2 = Spelling(
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
MMDET_3 = Spelling(
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


def take_num_labels(options: Options) -> int:
    """The head's number of classes: ``num_classes``, or the sum of its things and stuff."""
    counted = options.take("num_things_classes", 80) + options.take("num_stuff_classes", 53)
    count = options.take("num_classes", counted)
    if not isinstance(count, int) or not 1 <= count <= MAX_CLASSES:
        raise options.error(f"{count!r} classes; the number must be an integer, {MAX_CLASSES} at most")
    return count


def one_rate(rates: set[float], context: Context) -> float:
    """The model's dropout rate of those of its parts."""
    if len(rates) > 1:
        context.note(context.where, f"it was trained with several dropout rates; the converted model has {max(rates)}")
    return max(rates)


def take_in_index(options: Options, count: int) -> list[int]:
    """The maps that the head reads, of which there are ``count``."""
    in_index = options.take("in_index", None)
    return list(range(count) if in_index is None else in_index)


def take_positions(options: Options, channels: int) -> None:
    """Takes the sine encoding of positions, which must have the form that the heads use."""
    inner = part_of(options, "positional_encoding", "SinePositionalEncoding")
    inner.expect("num_feats", channels // 2)
    if inner.take("normalize", False) is not True:
        raise inner.error("positions that are not normalised (normalize=False) are not supported")
    inner.expect("temperature", 10000)
    inner.expect("offset", 0.0)
    inner.finish()


def decoder_fields(
    options: Options, spelling: Spelling, channels: int, order: tuple[str, ...]
) -> tuple[dict[str, Any], set[float]]:
    """Fields of the queries' decoder, whose layers have their parts in this order, and its dropout rates."""
    decoder = part_of(options, "transformer_decoder", "DetrTransformerDecoder")
    decoder.ignore("return_intermediate")  # the head reads every layer
    _layer_norm(decoder, "post_norm_cfg")
    fields = {"decoder_layers": decoder.take("num_layers")}
    layer = layer_options(decoder, spelling, "DetrTransformerDecoderLayer", order)
    rates: set[float] = set()
    for name in dict.fromkeys((spelling.cross_attention, spelling.self_attention)):
        heads, attention_rates = attention_heads(layer, name, spelling, channels)
        rates |= attention_rates
        if fields.setdefault("decoder_heads", heads) != heads:
            raise layer.error(f"{name}.num_heads={heads!r}, and {fields['decoder_heads']!r} in the other attention")
    fields["decoder_hidden_channels"], ffn_rates = feed_forward(layer, spelling, channels)
    layer.finish()
    decoder.finish()
    return fields, rates | ffn_rates


def attention_heads(layer: Options, name: str, spelling: Spelling, channels: int) -> tuple[int, set[float]]:
    """The number of heads of an attention over whole maps or queries, and its dropout rates."""
    attention = part_of(layer, name, "MultiheadAttention")
    attention.expect("batch_first", spelling.batch_first)
    attention.expect("embed_dims", channels)
    of_weights, of_output = attention.take("attn_drop", 0.0), attention.take("proj_drop", 0.0)
    rates = {float(attention.take("dropout", of_weights)), float(of_output)}  # an older name, which replaces attn_drop
    _no_drop_path(attention)
    heads = attention.take("num_heads", 8)
    attention.finish()
    return heads, rates


def layer_options(options: Options, spelling: Spelling, kind: str, order: tuple[str, ...]) -> Options:
    """The options of a stack's layers, whose parts must come in this order."""
    layer = part_of(options, spelling.layers, kind)
    layer.expect("operation_order", order)
    _layer_norm(layer, "norm_cfg")
    return layer


def take_norm_groups(options: Options) -> int:
    """The number of groups of a pixel decoder's norms."""
    norm = part_of(options, "norm_cfg", "GN")
    norm.in_training("requires_grad", True)
    norm.expect("eps", 1e-5)
    groups = norm.take("num_groups", 32)
    norm.finish()
    return groups


def _layer_norm(options: Options, name: str) -> None:
    norm = options.take(name, {"type": "LN"})
    if type_name(norm, options.where) != "LN" or len(norm) > 1:
        raise options.error(f"{name}={norm!r} is not supported (only LN)")


def feed_forward(layer: Options, spelling: Spelling, channels: int) -> tuple[int, set[float]]:
    """The width inside a layer's feed-forward net, and its dropout rates."""
    of_layer = layer.take("feedforward_channels", None)  # which replaces the net's own in the original too
    ffn = part_of(layer, spelling.feed_forward, "FFN")
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


def part_of(options: Options, name: str, *kinds: str) -> Options:
    """The options of an inner dict, which must be of one of the types if it names a type."""
    original = options.take(name)
    place = f"{options.where}.{name}"
    inner = Options(original, place)
    if "type" in original and (found := type_name(original, place)) not in kinds:
        raise inner.error(f"type {found!r} is not supported (only {' or '.join(kinds)})")
    inner.ignore("init_cfg", "with_cp")
    return inner


@dataclass(frozen=True, kw_only=True)
class MaskLoss:
    """The part of a loss that compares masks pixel by pixel, and its cost in the matching.

    Args:
        loss, cost: their types.
        options: further options of the loss, with the names of our loss's fields and their defaults.
        cost_values: further options of the cost, which must have these values.
        matching: options of the matching, with the names of our loss's fields and their defaults.
    """

    loss: str
    cost: str
    options: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    cost_values: Mapping[str, Any] = field(default_factory=dict)
    matching: Mapping[str, tuple[str, Any]] = field(default_factory=dict)


def loss_fields(options: Options, num_labels: int, mask_loss: MaskLoss, context: Context) -> dict[str, Any]:
    """Fields of the loss from ``loss_cls``, ``loss_mask``, ``loss_dice``, and from the matching in ``train_cfg``."""
    classes = part_of(options, "loss_cls", "CrossEntropyLoss")
    masks = part_of(options, "loss_mask", mask_loss.loss)
    dice = part_of(options, "loss_dice", "DiceLoss")
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
        **{name: masks.take(old, default) for old, (name, default) in mask_loss.options.items()},
    }
    for part in (classes, masks, dice):
        part.finish()
    options.ignore("loss_decode")
    train_cfg = options.take("train_cfg", None) or context.original.train_cfg
    return {**fields, **_matching(train_cfg, mask_loss)}


def _matching(original: Mapping[str, Any] | None, mask_loss: MaskLoss) -> dict[str, Any]:
    """The options of the matching; empty for a config without them, so that the defaults apply."""
    if not original or "assigner" not in original:
        return {}
    train = Options(original, "model.train_cfg")
    train.take("sampler", None)
    fields = {name: train.take(old, default) for old, (name, default) in mask_loss.matching.items()}
    assigner = part_of(train, "assigner", "MaskHungarianAssigner", "HungarianAssigner")
    kinds = {"class": "ClassificationCost", "mask": mask_loss.cost, "dice": "DiceCost"}  # by part of the loss
    costs = _costs(assigner, kinds)
    for part, kind in kinds.items():
        if kind not in costs:  # a list need not have all
            fields[f"{part}_cost_weight"] = 0.0
            continue
        cost = costs.pop(kind)
        fields[f"{part}_cost_weight"] = cost.take("weight", 1.0)
        if part == "mask":
            for option, value in mask_loss.cost_values.items():
                cost.expect(option, value)
        elif part == "dice":
            cost.expect("pred_act", True)
            cost.expect("eps", 1.0)
            cost.expect("naive_dice", True)
        cost.finish()
    if costs:
        raise assigner.error(f"costs {', '.join(costs)} are not supported (only {', '.join(kinds.values())})")
    assigner.finish()
    train.finish()
    return fields


def _costs(assigner: Options, kinds: Mapping[str, str]) -> dict[str, Options]:
    """The options of the costs by type: from a list in mmdet 3, from one option each in mmdet 2."""
    if "match_costs" not in assigner:
        names = {"class": "cls_cost"}
        return {kind: part_of(assigner, names.get(part, f"{part}_cost"), kind) for part, kind in kinds.items()}
    costs = assigner.take("match_costs")
    place = f"{assigner.where}.match_costs"
    named = [(type_name(cost, place), Options(cost, f"{place}[{i}]")) for i, cost in enumerate(costs)]
    if len(dict(named)) != len(named):
        raise assigner.error("match_costs has two costs of the same type")
    return dict(named)


def decoder_keys(spelling: Spelling) -> Iterable[KeyRule]:
    """The key rules of the queries' decoder."""
    old, new = "transformer_decoder.layers.{}", "layers.{}"
    yield from norm_and_ffn_keys(spelling, old, new, norms=3)
    for key, name in ((spelling.cross_key, "cross_attention"), (spelling.self_key, "self_attention")):
        yield from attention_keys(f"{old}.{key}", f"{new}.{name}")


def attention_keys(old: str, new: str) -> Iterable[KeyRule]:
    """The key rules of an attention over whole maps or queries."""
    for part in ("weight", "bias"):
        yield KeyRule(f"{old}.attn.in_proj_{part}", f"{new}.in_proj.{part}")
    yield KeyRule(f"{old}.attn.out_proj.{{}}", f"{new}.out_proj.{{}}")


def norm_and_ffn_keys(spelling: Spelling, old: str, new: str, *, norms: int) -> Iterable[KeyRule]:
    """The key rules of what a layer has besides its attentions."""
    for i in range(norms):
        yield KeyRule(f"{old}.norms.{i}.{{}}", f"{new}.norm{i + 1}.{{}}")
    ffn = f"{old}.{spelling.feed_forward_key}.layers"
    yield KeyRule(f"{ffn}.0.0.{{}}", f"{new}.feed_forward.linear1.{{}}")
    yield KeyRule(f"{ffn}.1.{{}}", f"{new}.feed_forward.linear2.{{}}")


def shared_keys() -> Iterable[KeyRule]:
    """The key rules of what both heads have besides layers; ``cls_embed`` is the classifier."""
    for name in ("lateral_convs.{}", "output_convs.{}"):
        yield from conv_keys(f"pixel_decoder.{name}", f"pixel_decoder.{name}")
    yield KeyRule("pixel_decoder.mask_feature.{}", "pixel_decoder.mask_features.{}")
    yield KeyRule("transformer_decoder.post_norm.{}", "norm.{}")
    yield KeyRule("query_embed.{}", "query_positions.{}")
    yield KeyRule("cls_embed.{}", "classifier.{}")
    yield KeyRule("mask_embed.{}.{}", "mask_embed.{}.{}")


def conv_keys(old: str, new: str) -> Iterable[KeyRule]:
    """The key rules of a convolution with a group norm."""
    yield KeyRule(f"{old}.conv.{{}}", f"{new}.conv.{{}}")
    yield KeyRule(f"{old}.gn.{{}}", f"{new}.norm.{{}}")
