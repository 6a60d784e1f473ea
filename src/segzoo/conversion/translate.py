"""Original training configs (mmsegmentation 0.x and 1.x, research forks) -> SegZooConfig and processor settings.

The config has been read as literals by ``reading.configs``; here its ``model``, ``test_cfg``, data set and test
pipeline become our typed configs. Every option is accounted for: an unknown one is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segzoo.conversion import rules  # noqa: F401  (each rule module registers itself)
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.hub_models import hub_models_named
from segzoo.conversion.keys import Context, KeyTable, find_rule
from segzoo.conversion.label_files import note_label_files
from segzoo.conversion.labels import find_classes
from segzoo.conversion.options import Options, type_name, values_that_fit
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.other_tasks import refuse_other_tasks
from segzoo.conversion.processor import translate_processor
from segzoo.conversion.scene_parsing import is_scene_parsing, translate_scene_parsing
from segzoo.conversion.translation import ComponentKeys, Translation, assemble
from segzoo.errors import SegZooError
from segzoo.heads import HeadConfig

# Those of Mask2Former pass labels on differently, and the last one cuts padding off after sliding windows. All of them
# average the probabilities of augmented views.
_SEGMENTORS = (
    "EncoderDecoder",
    "CascadeEncoderDecoder",
    "EncoderDecoderMask2Former",
    "EncoderDecoderMask2FormerAug",
)
# Test settings of detectors that Mask2Former configs carry along, and nothing reads.
_PANOPTIC = ("panoptic_on", "semantic_on", "instance_on", "max_per_image", "iou_thr", "filter_low_score")
MAX_HEADS = 100
_REFUSALS: dict[str, str | None] = {}  # what `refusal` has found, by the config's text


def translate_config(
    config: Mapping[str, Any],
    *,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    names_source: str = "the checkpoint",
    version: Any = None,
) -> Translation:
    """Translates a whole original config.

    Args:
        config: the original config as plain Python values.
        class_names, palette: names and colours of the classes that come before the config's, or None.
        names_source: where they come from, in words.
        version: the ``mmseg_version`` of the checkpoint, where versions of mmsegmentation 0.x differ; None where it has none.

    Raises:
        ConversionError: the config has no segmentation model, or has something unknown that might change the numbers;
            the message names the place, the option and its value.
    """
    if is_scene_parsing(config):
        return translate_scene_parsing(config, class_names=class_names, names_source=names_source)
    original = OriginalConfig.parse(config, version=version)
    refuse_other_tasks(original)
    kind, options = segmentor_type(original.model), Options(original.model, "model")
    test_cfg = Options(original.test_cfg or {}, "model.test_cfg")
    context = Context("model", original, test_cfg=test_cfg)
    # These are about training and initialisation, or are read elsewhere.
    options.ignore("pretrained", "init_cfg", "train_cfg", "test_cfg", "data_preprocessor")

    components = _backbone_and_neck(options.take("backbone"), options.take("neck", None), context)
    decode_heads = _heads(_decode_heads(kind, options), "decode_head.", "decode_heads.", context)
    auxiliary = options.take("auxiliary_head", None)
    auxiliary_heads = [] if auxiliary is None else _heads(auxiliary, "auxiliary_head.", "auxiliary_heads.", context)
    components += [*decode_heads, *auxiliary_heads]
    with values_that_fit(test_cfg.where):
        window_size, window_stride = _windows(test_cfg, context)
    test_cfg.finish()  # the heads have taken theirs
    options.finish()

    for component in decode_heads[:-1]:
        if component.place in context.one_channel:
            raise ConversionError(
                f"{component.place}: one output channel that the next head of a cascade reads is not supported"
            )
    num_labels = _class_count(decode_heads, auxiliary_heads, context)
    ignore_index = context.ignore_index.get(decode_heads[-1].place, 255)
    for place, label in context.ignore_index.items():
        if label != ignore_index:
            context.note(
                place,
                f"it ignored label {label} in training; the whole model ignores the decode head's {ignore_index}",
            )
    with values_that_fit("the data set"):
        classes = find_classes(
            original.dataset,
            num_labels,
            one_channel=context.one_channel.get(decode_heads[-1].place),
            class_names=class_names,
            palette=palette,
            names_source=names_source,
        )
        note_label_files(context, class_names)
    with values_that_fit("the test pipeline"):
        num_channels = getattr(components[0].config, "num_channels", 3)
        processor = translate_processor(context, num_channels=num_channels)
    with values_that_fit("model"):
        return assemble(
            components,
            classes,
            processor=processor,
            notes=context.notes,
            ignore_index=ignore_index,
            window_size=window_size,
            window_stride=window_stride,
        )


def supports(config: Mapping[str, Any]) -> bool:
    """Whether a config translates, its options included."""
    return refusal(config) is None


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why a config does not translate, in the words of the error; None if it does."""
    text = repr(config)  # many configs of the zoo are equal
    if text not in _REFUSALS:
        try:
            translate_config(config)
            _REFUSALS[text] = None
        except SegZooError as error:
            _REFUSALS[text] = str(error)
    return _REFUSALS[text]


def segmentor_type(model: Any) -> str:
    """The type of a segmentation model.

    Raises:
        ConversionError: there is no model, or it is of an unknown type.
    """
    if not isinstance(model, Mapping):
        raise ConversionError("the config has no 'model'; give the training config of the checkpoint with --config")
    kind = type_name(model, "model", _SEGMENTORS)
    if kind == "HRDAEncoderDecoder":
        raise ConversionError(
            f"model type {kind!r} is not supported: it reads each image at two resolutions and fuses the predictions (HRDA)"
        )
    if kind not in _SEGMENTORS:
        raise ConversionError(f"model type {kind!r} is not supported (known: {', '.join(_SEGMENTORS)})")
    return kind


def _decode_heads(kind: str, options: Options) -> Any:
    """The decode head's dict, or the list of dicts of a cascade."""
    heads = options.take("decode_head")
    if kind == "CascadeEncoderDecoder":
        stages = options.take("num_stages", None)
        if not isinstance(heads, (list, tuple)) or stages not in (None, len(heads)):
            raise options.error(f"num_stages={stages!r} and the number of decode heads disagree")
    elif isinstance(heads, (list, tuple)):
        raise options.error("several decode heads need the type CascadeEncoderDecoder")
    return heads


def _backbone_and_neck(original: Any, neck: Any, context: Context) -> list[ComponentKeys]:
    """The components of a backbone and of the neck behind it, if there is one, which the original backbone may hold.

    Raises:
        ConversionError: there is more than one neck.
    """
    backbone = _component("backbone", original, "backbone.", "backbone.", context)
    inside = find_rule("backbone", original, backbone.place).neck_of(original)
    if isinstance(neck, (list, tuple)):
        names = ", ".join(type_name(one, "model.neck") for one in neck)
        raise ConversionError(f"model.neck: several necks one after the other are not supported ({names})")
    if inside is None:
        return [backbone] if neck is None else [backbone, _component("neck", neck, "neck.", "neck.", context)]
    if neck is not None:
        raise ConversionError(
            f"model.neck: {type_name(neck, 'model.neck')} after {backbone.original_type}, which rescales its maps itself, "
            "is not supported"
        )
    config, keys = inside(backbone.config)
    return [backbone, ComponentKeys("backbone.", "neck.", KeyTable(keys), backbone.original_type, config)]


def _heads(originals: Any, original_prefix: str, native_prefix: str, context: Context) -> list[ComponentKeys]:
    """The components of one head, or of a list of heads, whose keys are numbered.

    Raises:
        ConversionError: there are more than `MAX_HEADS`, or one of them has no rule.
    """
    if isinstance(originals, (list, tuple)):
        if len(originals) > MAX_HEADS:
            raise ConversionError(
                f"model.{original_prefix.rstrip('.')}: {len(originals)} heads; no model has more than {MAX_HEADS}"
            )
        places = [(head, f"{original_prefix}{i}.") for i, head in enumerate(originals)]
    else:
        places = [(originals, original_prefix)]
    return [_component("head", head, old, f"{native_prefix}{i}.", context) for i, (head, old) in enumerate(places)]


def _component(kind: str, original: Any, original_prefix: str, native_prefix: str, context: Context) -> ComponentKeys:
    where = "model." + original_prefix.rstrip(".")
    with hub_models_named(context.original.model):
        rule = find_rule(kind, original, where)
        native, table = rule.convert(original, context.at(where))
    return ComponentKeys(original_prefix, native_prefix, table, type_name(original, where, rule.types), native)


def _class_count(
    decode_heads: Sequence[ComponentKeys], auxiliary_heads: Sequence[ComponentKeys], context: Context
) -> int:
    """The model's number of classes, which is that of the last decode head.

    An auxiliary head with another number keeps its own as ``own_outputs``, because it has no part in inference.

    Raises:
        ConversionError: a decode head without ``own_outputs`` has another number.
    """
    count = decode_heads[-1].config.num_labels

    def others(heads: Sequence[ComponentKeys]) -> Iterator[tuple[str, HeadConfig]]:
        for component in heads:
            if component.config.own_outputs is None and component.config.num_labels != count:
                yield component.place, component.config

    for place, head in others(decode_heads):
        raise ConversionError(
            f"class counts disagree: the last decode head has {count} classes, {place} has {head.num_labels}; "
            "the decode heads of a cascade must have as many. Correct num_classes if the weights have the same number"
        )
    for place, head in others(auxiliary_heads):
        head.own_outputs = head.num_labels
        context.note(
            place,
            f"it has {head.num_labels} classes and the model {count}; it is kept, and not trained on labels of the model's classes",
        )
    return count


def _windows(options: Options, context: Context) -> tuple[list[int] | None, list[int] | None]:
    """(window size, window stride), each [height, width], of the test settings; (None, None) for whole images.

    A stride longer than the window becomes as long: the original takes only images that it gives the same windows.
    """
    options.ignore(*_PANOPTIC, "batched_slide", "rescale")
    if options.expect("mode", "whole", "slide") == "whole":
        options.ignore("crop_size", "stride")  # not used
        return None, None
    size, stride = _pair(options, "crop_size"), _pair(options, "stride")
    steps = [min(pair) for pair in zip(size, stride, strict=True)]
    if steps != stride:
        context.note(options.where, f"stride={stride} is longer than crop_size={size}; {steps} is taken")
    if context.original.is_before(0, 6):
        context.note(
            options.where,
            "mmsegmentation before 0.6, of which the checkpoint is, pads pictures smaller than a window up to it; here, and in later "
            "versions, windows end with the picture",
        )
    return size, steps


def _pair(options: Options, name: str) -> list[int]:
    value = options.take(name)
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise options.error(f"{name}={value!r} must be a height and a width")
    return pair
