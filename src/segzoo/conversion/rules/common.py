"""What rule modules share: keys of mmcv's ConvModule, options of decode heads, and heads that are a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from segzoo.auto import AutoBackbone
from segzoo.base import without_weights
from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.losses import DEFAULT_LOSS, translate_losses
from segzoo.conversion.one_channel import DEFAULT_THRESHOLD, classifier_keys
from segzoo.conversion.options import Options, type_name
from segzoo.heads.base import HeadConfig, OneMapHeadConfig

MAX_CLASSES = 65536  # the number of ids in 16-bit label files
CLASSIFIER = (KeyRule("conv_seg.{}", "classifier.{}"),)
_BATCH_NORM, _GROUP_NORM = ".bn.{}", ".gn.{}"


def conv_module(original: str, native: str | None = None) -> tuple[KeyRule, ...]:
    """Key rules for a ConvModule with batch norm or none (``conv``, ``bn``), our ConvNormAct (``conv``, ``norm``).

    Args:
        original: name of the module in the original; each ``{}`` stands for whole segments, such as an index.
        native: name of the module in our model; None if it is the same.
    """
    native = original if native is None else native
    return (
        KeyRule(f"{original}.conv.{{}}", f"{native}.conv.{{}}"),
        KeyRule(f"{original}{_BATCH_NORM}", f"{native}.norm.{{}}"),
    )


def plain_convolutions(options: Options) -> None:
    """Takes ``conv_cfg``, which must be absent or name ordinary convolutions.

    Raises:
        ConversionError: it names another kind of convolutions.
    """
    conv_cfg = options.take("conv_cfg", None)
    if conv_cfg is None:
        return
    place = f"{options.where}.conv_cfg"
    if type_name(conv_cfg, place) not in ("Conv", "Conv2d"):
        raise options.error(f"convolutions conv_cfg={conv_cfg!r} are not supported (only ordinary ones)")
    Options(conv_cfg, place).finish()


def rising_indices(options: Options, default: tuple[int, ...]) -> list[int]:
    """Takes ``out_indices`` of a backbone that returns its maps in their order.

    Raises:
        ConversionError: they are not a list of rising numbers.
    """
    indices = options.take("out_indices", default)
    if not isinstance(indices, (list, tuple)) or list(indices) != sorted(set(indices)):
        raise options.error(f"out_indices={indices!r} must be a list of rising numbers")
    return list(indices)


def map_range(options: Options, count: int) -> tuple[int, int]:
    """Takes ``start_level`` and ``end_level``: positions of a neck's first map, and after its last, of ``count`` maps.

    Raises:
        ConversionError: they name no maps.
    """
    first, end = options.take("start_level", 0), options.take("end_level", -1)
    end = count if end == -1 else end
    if not 0 <= first < end <= count:
        raise options.error(f"start_level={first!r} and end_level={end!r} do not fit {count} maps")
    return first, end


def channels_of_maps(config: PreTrainedConfig) -> list[int]:
    """The channels of the maps that a backbone of this config returns; none of its weights is made."""
    with without_weights():
        return list(AutoBackbone.from_config(config).channels)


def head_options(
    options: Options, context: Context, config: type[HeadConfig], *, needs_norm: str | None = None
) -> tuple[dict[str, Any], tuple[KeyRule, ...]]:
    """Takes the options that every mmsegmentation decode head has.

    Args:
        options: the head's options.
        context: the context at the head's place, which takes notes.
        config: class of our config. Heads of a `OneMapHeadConfig` read one map unless ``input_transform`` says
            otherwise, all others several.
        needs_norm: what the original has without norms that ours has not, in words; None for nothing.

    Returns:
        the fields of our HeadConfig; and key rules that come before the head's own, for a classifier with one channel.

    Raises:
        ConversionError: an option has a value that would change the numbers and is not supported.
    """
    options.ignore("init_cfg")
    num_labels, classifier = _outputs(options, context)
    plain_convolutions(options)
    fields = {
        **_maps(options, one_map=issubclass(config, OneMapHeadConfig)),
        **options.norm(),
        "activation": options.activation(),
        "num_labels": num_labels,
        "channels": options.take("channels"),
        "dropout": max(float(options.take("dropout_ratio", options.take("drop_out_ratio", 0.1))), 0.0),
        "align_corners": bool(options.take("align_corners", False)),
    }
    context.take_ignore_index(options)
    if needs_norm is not None and fields["norm"] is None:
        raise options.error(f"norm_cfg=None, the default, is not supported: {needs_norm}")
    fields["losses"] = translate_losses(
        options.take("loss_decode", DEFAULT_LOSS),
        options.take("sampler", None),
        context.at(options.where),
        one_channel=bool(classifier),
    )
    return fields, classifier


def _outputs(options: Options, context: Context) -> tuple[int, tuple[KeyRule, ...]]:
    """The number of classes of our head, and key rules that change its classifier.

    Raises:
        ConversionError: the numbers of classes and channels disagree, or the threshold is not between 0 and 1.
    """
    num_classes, out_channels = options.take("num_classes"), options.take("out_channels", None)
    threshold = options.take("threshold", None)
    if type(num_classes) is not int or not 1 <= num_classes <= MAX_CLASSES:
        raise options.error(f"num_classes={num_classes!r} must be an integer, {MAX_CLASSES} at most")
    if num_classes > 2 or out_channels not in (None, 1) or (num_classes == 2 and out_channels is None):
        if out_channels not in (None, num_classes):
            raise options.error(f"out_channels={out_channels!r} and num_classes={num_classes} disagree")
        return num_classes, ()
    said = f"threshold {threshold}"
    if threshold is None:
        threshold, said = DEFAULT_THRESHOLD, f"threshold {DEFAULT_THRESHOLD}, the original's default"
    if not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise options.error(f"threshold={threshold!r} must be a number between 0 and 1")
    context.one_channel[context.where] = num_classes
    old = num_classes == 1 and not context.original.is_1x
    context.note(
        context.where,
        f"one output channel became two, background and the class, with the labels of its sigmoid and {said}"
        + (" (versions before 0.28 took an argmax over the one channel, which is 0 everywhere)" if old else "")
        + "; it trains on with losses of two classes"
        + ("" if threshold == 0.5 else ", and the mean over augmented views is taken after the shift to 0.5"),
    )
    return 2, classifier_keys(threshold)


def _maps(options: Options, *, one_map: bool) -> dict[str, Any]:
    """The fields for the maps that a head reads."""
    transform = options.take("input_transform", None if one_map else "multiple_select")
    if not one_map and transform != "multiple_select":
        raise options.error(f"input_transform={transform!r} does not fit this head, which reads several maps")
    if one_map and transform not in (None, "resize_concat"):
        raise options.error(f"input_transform={transform!r} does not fit this head (only None or 'resize_concat')")
    in_channels, in_index = options.take("in_channels"), options.take("in_index", -1)
    if transform is None:
        if not isinstance(in_channels, int) or not isinstance(in_index, int):
            raise options.error(f"in_channels={in_channels!r} and in_index={in_index!r} must be integers here")
        in_channels, in_index = [in_channels], [in_index]
    elif not isinstance(in_channels, (list, tuple)) or not isinstance(in_index, (list, tuple)):
        raise options.error(f"in_channels={in_channels!r} and in_index={in_index!r} must be lists here")
    if len(in_channels) != len(in_index):
        raise options.error(f"in_channels={in_channels!r} and in_index={in_index!r} differ in length")
    fields = {"in_channels": list(in_channels), "in_index": list(in_index)}
    return fields | {"resize_concat": transform == "resize_concat"} if one_map else fields


def head_keys(keys: Iterable[KeyRule], config: HeadConfig) -> tuple[KeyRule, ...]:
    """The key rules of a head with its classifier's, for the kind of its norms."""
    return norm_keys((*keys, *CLASSIFIER), config.norm)


def norm_keys(rules: Iterable[KeyRule], norm: str | None) -> tuple[KeyRule, ...]:
    """The rules that `conv_module` made, for a kind of norms. mmcv names norms by kind, so group norms become ``gn``."""
    if norm != "group_norm":
        return tuple(rules)
    return tuple(
        KeyRule(rule.original.removesuffix(_BATCH_NORM) + _GROUP_NORM, rule.native, rule.alias)
        if rule.original.endswith(_BATCH_NORM)
        else rule
        for rule in rules
    )


def head_rule(
    *types: str,
    config: type[HeadConfig],
    required: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    expected: Mapping[str, tuple[Any, ...]] | None = None,
    own_outputs: bool = False,
    needs_norm: str | None = None,
    keys: Iterable[KeyRule] | Callable[[Any], Iterable[KeyRule]] = (),
) -> HeadRule:
    """Registers the rule of a head whose options have the names of our config's fields, and returns it.

    Args:
        types: names of the original classes.
        config: class of our config.
        required: names of the head's own options without which the original class cannot be made.
        options: its other options, besides those of every head, with the defaults of the original class.
        fixed: fields of our config that are the same for all heads of the original class.
        expected: supported values of options that support only some; the first is the default.
        own_outputs: the head's outputs are by nature no classes of the model, and ``num_classes`` is their number.
        needs_norm: as in `head_options`.
        keys: the key rules without the classifier's, or ``keys(native_config) -> rules``.

    Raises:
        ValueError: another rule already has one of the types.
    """

    own_keys = keys if callable(keys) else tuple(keys)
    required = tuple(required)

    def translate(
        original: Mapping[str, Any], context: Context
    ) -> HeadConfig | tuple[HeadConfig, tuple[KeyRule, ...]]:
        own = Options(original, context.where)
        for name, allowed in (expected or {}).items():
            own.expect(name, *allowed)
        fields = {name: own.take(name) for name in required}
        fields |= {name: own.take(name, default) for name, default in (options or {}).items()}
        shared, first_keys = head_options(own, context, config, needs_norm=needs_norm)
        own.finish()
        if own_outputs:
            shared["own_outputs"] = shared["num_labels"]
        native = config(**fields | shared | dict(fixed or {}))
        return (native, first_keys) if first_keys else native

    def key_rules(native: HeadConfig) -> tuple[KeyRule, ...]:
        return head_keys(own_keys(native) if callable(own_keys) else own_keys, native)

    return register(HeadRule(types=types, translate=translate, keys=key_rules))


def refuse_namesakes(options: Options, context: Context, difference: str, *, of_mmdet: bool = True) -> None:
    """Refuse a class of mmdetection or of mmpretrain that has the name of one of mmsegmentation's, and is another network.

    Args:
        options: of the component.
        context: with the package that the class is of.
        difference: what it does otherwise, in words.
        of_mmdet: whether that is so of mmdetection's class too.

    Raises:
        ConversionError: the class is one of these.
    """
    if context.of_mmpretrain or (of_mmdet and context.package == "mmdet"):
        raise options.error(f"{context.package}'s class of this name {difference}, which is not supported")
