"""Original training configs (mmsegmentation 0.x and 1.x, research forks) -> SegZooConfig and processor settings.

The config has been read as literals by ``config_reader``; here its ``model``, ``test_cfg``, data set and test pipeline
become our typed configs.  Every option is accounted for: one that nobody knows is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import ComponentRule, Context, KeyTable, Options, find_rule, type_name, values_that_fit
from segzoo.conversion.labels import ClassFacts, find_classes
from segzoo.conversion.processor import translate_processor

# Those of Mask2Former differ in how they pass labels on, and the last of them cuts padding off after sliding windows. All of them
# average the probabilities of augmented views.
_SEGMENTORS = (
    "EncoderDecoder",
    "CascadeEncoderDecoder",
    "EncoderDecoderMask2Former",
    "EncoderDecoderMask2FormerAug",
)
# Test settings of detectors that the Mask2Former configs carry along, and that nothing reads.
_PANOPTIC = ("panoptic_on", "semantic_on", "instance_on", "max_per_image", "iou_thr", "filter_low_score")


@dataclass(frozen=True)
class ComponentKeys:
    """The key table of one component, and where the component stands in both models.

    Args:
        original_prefix: what its keys begin with in the original state dict ("decode_head.").
        native_prefix: the same in ours ("decode_heads.0.").
        table: the renaming of the rest.
        original_type: name of the original class, for reports.
    """

    original_prefix: str
    native_prefix: str
    table: KeyTable
    original_type: str


@dataclass(frozen=True)
class Translation:
    """Everything that an original config says about a converted model.

    Args:
        config: the model's config, class names and palette included.
        processor: keyword arguments of SegZooImageProcessor.
        classes: class names, colours and data set, and where they come from.
        components: key tables, in the order of the model.
        notes: what was not carried over, for people.
    """

    config: SegZooConfig
    processor: dict[str, Any]
    classes: ClassFacts
    components: list[ComponentKeys]
    notes: list[str] = field(default_factory=list)


def translate_config(
    config: Mapping[str, Any],
    *,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> Translation:
    """Translates a whole original config.

    Args:
        config: the original config as plain Python values.
        class_names, palette: what the checkpoint carries, or None.

    Raises:
        ConversionError: the config has no segmentation model, or says something that is not known and would change the
            numbers; the message names the place, the option and its value.
    """
    if is_scene_parsing(config):
        from segzoo.conversion.scene_parsing import translate_scene_parsing  # which builds on this module

        return translate_scene_parsing(config)
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise ConversionError("the config has no 'model'; give the training config of the checkpoint with --config")
    kind = segmentor_type(model)
    context = Context("model", config)
    options = Options(model, "model")
    # training and initialisation, or read elsewhere
    options.ignore("pretrained", "init_cfg", "train_cfg", "data_preprocessor")

    components: list[ComponentKeys] = []
    backbone = _component("backbone", options.take("backbone"), "backbone.", "backbone.", context, components)
    neck = options.take("neck", None)
    if neck is not None:
        neck = _component("neck", neck, "neck.", "neck.", context, components)

    decode = options.take("decode_head")
    if kind == "CascadeEncoderDecoder":
        stages = options.take("num_stages", None)
        if not isinstance(decode, (list, tuple)) or stages not in (None, len(decode)):
            raise options.error(f"num_stages={stages!r} and the number of decode heads disagree")
        decode_heads = [
            _component("head", head, f"decode_head.{i}.", f"decode_heads.{i}.", context, components)
            for i, head in enumerate(decode)
        ]
    elif isinstance(decode, (list, tuple)):
        raise options.error("several decode heads need the type CascadeEncoderDecoder")
    else:
        decode_heads = [_component("head", decode, "decode_head.", "decode_heads.0.", context, components)]

    auxiliary = options.take("auxiliary_head", None)
    if isinstance(auxiliary, (list, tuple)):
        auxiliary_heads = [
            _component("head", head, f"auxiliary_head.{i}.", f"auxiliary_heads.{i}.", context, components)
            for i, head in enumerate(auxiliary)
        ]
    elif auxiliary is not None:
        auxiliary_heads = [_component("head", auxiliary, "auxiliary_head.", "auxiliary_heads.0.", context, components)]
    else:
        auxiliary_heads = []

    with values_that_fit("model.test_cfg"):
        window_size, window_stride = _windows(options.take("test_cfg", None) or config.get("test_cfg"))
    options.finish()
    num_labels = _class_count(decode_heads, auxiliary_heads)
    if len(context.ignore_index) > 1:
        raise ConversionError(f"the heads ignore different labels ({sorted(context.ignore_index)}); one is supported")
    with values_that_fit("the data set"):
        classes = find_classes(config, num_labels, class_names=class_names, palette=palette)
    ignore_index = next(iter(context.ignore_index), 255)
    if classes.names is None:
        context.note("classes", "no names are known; they are called LABEL_0, LABEL_1, ... (id2label in config.json)")
    names = classes.names or [f"LABEL_{i}" for i in range(num_labels)]
    native = SegZooConfig(
        backbone_config=backbone,
        neck_config=neck,
        decode_head_configs=decode_heads,
        auxiliary_head_configs=auxiliary_heads,
        semantic_loss_ignore_index=ignore_index,
        window_size=window_size,
        window_stride=window_stride,
        palette=classes.palette,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    with values_that_fit("the test pipeline"):
        processor = translate_processor(config, context, num_channels=getattr(backbone, "num_channels", 3))
    processor |= {
        "do_reduce_labels": classes.reduce_labels,
        "ignore_index": ignore_index,
        "align_corners": decode_heads[-1].align_corners,
        "window_size": window_size,
        "window_stride": window_stride,
    }
    return Translation(native, processor, classes, components, context.notes)


def is_scene_parsing(config: Mapping[str, Any]) -> bool:
    """Whether a config is of MIT's scene-parsing project, whose sections have names in capitals."""
    return isinstance(config.get("MODEL"), Mapping)


def supports(config: Mapping[str, Any]) -> bool:
    """Whether all components of a config's model have conversion rules; their options are not checked."""
    if is_scene_parsing(config):
        return True
    model = config.get("model")
    if not isinstance(model, Mapping):
        return False
    try:
        segmentor_type(model)
        for kind, name in (
            ("backbone", "backbone"),
            ("neck", "neck"),
            ("head", "decode_head"),
            ("head", "auxiliary_head"),
        ):
            found = model.get(name) or []
            for original in found if isinstance(found, (list, tuple)) else [found]:
                find_rule(kind, original, name)
    except ConversionError:
        return False
    return True


def segmentor_type(model: Mapping[str, Any]) -> str:
    """The type of a segmentation model.

    Raises:
        ConversionError: the dict is a detector, a classifier, or nothing that is known.
    """
    kind = type_name(model, "model")
    if kind in _SEGMENTORS:
        return kind
    if any(
        name in model for name in ("rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head", "query_head")
    ):
        raise ConversionError(
            f"this is a detection checkpoint (model type {kind!r}); only semantic-segmentation models can be converted"
        )
    if "head" in model and "decode_head" not in model:
        raise ConversionError(
            f"this is a classification checkpoint (model type {kind!r}); only semantic-segmentation models "
            "can be converted"
        )
    raise ConversionError(f"model type {kind!r} is not supported (known: {', '.join(_SEGMENTORS)})")


def _component(
    kind: str,
    original: Any,
    original_prefix: str,
    native_prefix: str,
    context: Context,
    components: list[ComponentKeys],
) -> Any:
    """Translates one component, appends its key table, and returns its native config."""
    where = "model." + original_prefix.rstrip(".")
    rule: ComponentRule = find_rule(kind, original, where)
    with values_that_fit(where):
        native = rule.translate(original, context.at(where))
    components.append(
        ComponentKeys(original_prefix, native_prefix, rule.key_table(native), type_name(original, where))
    )
    return native


def _class_count(decode_heads: Sequence[Any], auxiliary_heads: Sequence[Any]) -> int:
    count = decode_heads[-1].num_labels
    for name, heads in (("decode", decode_heads), ("auxiliary", auxiliary_heads)):
        for head in heads:
            if head.num_labels != count:
                raise ConversionError(
                    f"class counts disagree: the last decode head has {count} classes, an {name} head "
                    f"{head.num_labels}; give a config whose num_classes is the same everywhere"
                )
    return count


def _windows(test_cfg: Any) -> tuple[list[int] | None, list[int] | None]:
    """(window size, window stride), each [height, width], of the test settings; (None, None) for whole images."""
    options = Options(test_cfg or {"mode": "whole"}, "model.test_cfg")
    options.ignore(*_PANOPTIC)
    mode = options.expect("mode", "whole", "slide")
    if mode == "whole":
        return None, None
    size, stride = _pair(options, "crop_size"), _pair(options, "stride")
    options.ignore("batched_slide", "rescale")
    options.finish()
    return size, stride


def _pair(options: Options, name: str) -> list[int]:
    value = options.take(name)
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise options.error(f"{name}={value!r} must be a height and a width")
    return pair
