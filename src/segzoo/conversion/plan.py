"""The plan of a conversion, made before anything is written: one function for each kind of original."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from segzoo import zoo
from segzoo.auto import AutoBackbone
from segzoo.base import without_weights
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.card import backbone_card, conversion_card
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.labels import GIVEN_NAMES
from segzoo.conversion.options import values_that_fit
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.pretrained.base import PretrainedKind
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint
from segzoo.conversion.reading.configs import copy_tree, read_config_text
from segzoo.conversion.report import ConversionReport
from segzoo.conversion.scene_parsing import (
    DECODER,
    config_from_weights,
    is_decoder_state,
    is_scene_parsing,
)
from segzoo.conversion.transformers_folders import is_transformers_config, translate_transformers
from segzoo.conversion.translate import translate_config
from segzoo.conversion.translation import ComponentKeys, Translation
from segzoo.errors import SegZooError, first_line
from segzoo.heads import HeadConfig
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation
from segzoo.text import listed

_AUXILIARY = "auxiliary_head."
_OWN_CONFIG = "the checkpoint"  # the source of a config, in words


@dataclass(frozen=True)
class Original:
    """An original checkpoint that has been read, and what the caller says about it.

    Args:
        checkpoint: the weights and what the file says about them; of a model in two files the weights of both.
        title: name of the file or the two files, for messages.
        in_two_files: whether the model is in two files.
        config: the training config that the caller gives, as values, or None.
        config_file: the file that this config was read from, or None.
        row: the released checkpoint that the caller names, or None.
        class_names: names of the classes that the caller gives, before all others, or None.
    """

    checkpoint: OriginalCheckpoint
    title: str
    in_two_files: bool = False
    config: Mapping[str, Any] | None = None
    config_file: str | Path | None = None
    row: zoo.ZooRow | None = None
    class_names: list[str] | None = None

    def translate(self, config: Mapping[str, Any]) -> Translation:
        """Translates a config, with the caller's class names or else the checkpoint's.

        Raises:
            ConversionError: the config is not supported, or the names are not as many as its classes.
        """
        names, source = self.checkpoint.class_names, "the checkpoint"
        if self.class_names is not None:
            names, source = self.class_names, GIVEN_NAMES
        return translate_config(
            config,
            class_names=names,
            palette=self.checkpoint.palette,
            names_source=source,
            version=self.checkpoint.meta.get("mmseg_version"),
        )


@dataclass(frozen=True)
class Plan:
    """What an original checkpoint will become.

    Args:
        original: the original.
        model: the model, on the meta device, without weights.
        components: the key tables of the model's components, in its order.
        state: tensors by original key.
        processor: the model's image processor; None for a backbone.
        card: ``card(model, report) -> text of README.md``.
        config_source: where the original config came from, in words.
        labels_source: where the class names come from, in words.
        row: the released checkpoint that is converted, or None.
        notes: remarks for the user.
        left_out: names of what the file holds besides ``state``, which the model does not need.
    """

    original: Original
    model: PreTrainedModel
    components: Sequence[ComponentKeys]
    state: dict[str, Tensor]
    processor: SegZooImageProcessor | None
    card: Callable[[PreTrainedModel, ConversionReport], str]
    config_source: str
    labels_source: str = ""
    row: zoo.ZooRow | None = None
    notes: Sequence[str] = ()
    left_out: Sequence[str] = ()

    @property
    def own_config(self) -> bool:
        """Whether the config is the one that the checkpoint carries."""
        return self.config_source == _OWN_CONFIG


def make_plan(original: Original) -> Plan:
    """Plans the conversion of an original to a segmentation model, or of a pre-training file to a backbone.

    Raises:
        ConversionError: the original has no config, is not a segmentation model, or its config holds something that is
            not supported.
    """
    if original.in_two_files and any(key.startswith(DECODER) for key in original.checkpoint.state_dict):
        return plan_scene_parsing(original)
    if is_transformers_config(original.checkpoint.config):
        return plan_transformers(original)
    kind = find_kind(original.checkpoint.state_dict)
    return plan_segmentor(original) if kind is None else plan_backbone(original, kind)


def plan_segmentor(original: Original) -> Plan:
    """Plans the conversion of a model of the mmsegmentation family.

    Raises:
        ConversionError: the original has no config, is another kind of model, or its config is not supported.
    """
    refuse_other_tasks(original.checkpoint.state_dict, original.title)
    try:
        translation, source = _translate_own(original)
    except SegZooError as error:
        row = original.row or _released(original)
        config = None if row is None or original.config is not None else zoo.original_config(row.name)
        if config is None or is_scene_parsing(config):
            raise
        source = f"the zoo ({row.name})"
        try:
            translation = original.translate(config)
        except SegZooError:
            raise error from None
        cause = " ".join(str(error).split())
        note = f"config: {source} gave it, because the checkpoint's own cannot be translated ({cause})"
        return _plan_model(original, translation, source, note)
    return _plan_model(original, translation, source)


def _translate_own(original: Original) -> tuple[Translation, str]:
    """The translation of the config that `_find_config` finds, and where that config came from."""
    config, source = _find_config(original)
    if is_scene_parsing(config):
        raise ConversionError(
            f"{original.title}: models of this config ({source}) come in two files; "
            "give the encoder's file and then the decoder's"
        )
    return original.translate(config), source


def plan_scene_parsing(original: Original) -> Plan:
    """Plans the conversion of a model of MIT's scene parsing, in two files.

    Raises:
        ConversionError: no config is known, or it is not one of such a model.
    """
    config, source = _find_config(original)
    if not is_scene_parsing(config):
        raise ConversionError(
            f"{original.title}: models of this config ({source}) come in one file; give the checkpoint alone"
        )
    note = f"files: the SHA-256 given is the encoder's; the decoder's is {original.checkpoint.meta['decoder']}"
    return _plan_model(original, original.translate(config), source, note)


def plan_transformers(original: Original) -> Plan:
    """Plans the conversion of a folder that transformers saved.

    Raises:
        ConversionError: a config or zoo name was given, or the model is not supported.
    """
    if original.row is not None or original.config is not None:
        raise ConversionError(
            f"{original.title}: a folder of transformers has its config; leave --name and --config out"
        )
    translation = translate_transformers(original.checkpoint.config or {}, class_names=original.class_names)
    return _plan_model(original, translation, "config.json")


def plan_backbone(original: Original, kind: PretrainedKind) -> Plan:
    """Plans the conversion of a pre-training file to a backbone to train from.

    Args:
        original: the original.
        kind: the kind of pre-training file, from `find_kind`.

    Raises:
        ConversionError: weights are missing or not of this kind, or a config or zoo name was given.
    """
    released = original.row is not None and original.row.pretrained
    if (original.row is not None and not released) or original.config is not None:
        raise ConversionError(
            f"{original.title}: these are pre-training weights without a decode head; leave --name and --config out to "
            "get the backbone"
        )
    if original.class_names is not None:
        raise ConversionError(f"{original.title}: a backbone has no classes; leave --classes out")
    found = kind.translate(original.checkpoint.state_dict, original.title)
    with without_weights():
        model = AutoBackbone.from_config(found.config)
    model.tie_weights()
    dropped = [key for key in found.state_dict if found.table.leaves_out(key)] + found.left_out
    notes = list(found.notes)
    if dropped:
        notes.append(f"left out: {len(dropped)} tensors of the task that it was pre-trained on ({listed(dropped, 4)})")
    return Plan(
        original,
        model,
        components=[ComponentKeys("", "", found.table, kind.title, found.config)],
        state=found.state_dict,
        processor=None,
        card=partial(backbone_card, title=kind.title),
        config_source="the weights themselves",
        row=original.row,
        notes=[*_remarks(original), *notes],
        left_out=found.left_out,
    )


def _plan_model(original: Original, translation: Translation, config_source: str, *notes: str) -> Plan:
    translation = _without_stripped_heads(translation, original.checkpoint.state_dict)
    model = build_translated(translation)
    _check_class_count(original, model, translation.components)
    recognised, remarks = _identify(original)
    row = original.row or recognised
    published = row  # of what the card gives scores, licence and address
    start = None if original.row is None else original.row.sha256_start
    if start is not None and not original.checkpoint.sha256.startswith(start):
        published = None
        remarks = [
            *remarks,
            f"origin: {row.name} gave the config alone; the file's SHA-256 does not begin with {start}, as the released "
            "one's does, so that the card has none of its scores",
        ]
    return Plan(
        original,
        model,
        components=translation.components,
        state=original.checkpoint.state_dict,
        processor=SegZooImageProcessor(**translation.processor),
        card=partial(conversion_card, translation=translation, row=published),
        config_source=config_source,
        labels_source=translation.classes.source,
        row=row,
        notes=[*translation.notes, *remarks, *notes, *_remarks(original)],
        left_out=original.checkpoint.left_out,
    )


def _without_stripped_heads(translation: Translation, state: Mapping[str, Tensor]) -> Translation:
    """The translation without auxiliary heads if no weight of theirs is in the file; people strip them to save space."""
    heads = [c for c in translation.components if c.original_prefix.startswith(_AUXILIARY)]
    if not heads or any(key.startswith(_AUXILIARY) for key in state):
        return translation
    config = copy.deepcopy(translation.config)
    config.auxiliary_head_configs = []
    note = (
        f"model.auxiliary_head: the file has no weights of {', '.join(head.original_type for head in heads)}; it is left "
        "out of the model (inference does not use it, training goes on without it)"
    )
    components = [component for component in translation.components if component not in heads]
    return replace(translation, config=config, components=components, notes=[*translation.notes, note])


def _remarks(original: Original) -> list[str]:
    checkpoint, notes = original.checkpoint, []
    if checkpoint.may_be_swapped:
        taken, option = ("ema_*", "without") if checkpoint.averaged else ("the model's names", "with")
        notes.append(
            f"weights: the file has two sets of mmcv's EMAHook, and the one under {taken} was taken. After iterations the average is "
            "the one under ema_*; at the end of an epoch the hook may have swapped the two, and whether it did the file's config does "
            f"not tell; {option} --ema the other set is taken"
        )
    elif checkpoint.averaged:
        notes.append("weights: the moving average was taken, not the weights that training goes on from")
    if checkpoint.left_out:
        names = sorted({key.partition(".")[0] for key in checkpoint.left_out})
        notes.append(
            f"weights: the model {checkpoint.model or 'without a prefix'} was taken; {len(checkpoint.left_out)} tensors "
            f"beside it are left out ({', '.join(names[:5])})"
        )
    return notes


def build_without_weights(config: SegZooConfig) -> SegZooForSemanticSegmentation:
    """Builds the model of a config on the meta device: names, shapes and dtypes, without memory.

    Raises:
        ConversionError: the values of the config contradict each other.
    """
    try:
        with without_weights(), values_that_fit("model"):
            model = SegZooForSemanticSegmentation(config)
        model.tie_weights()
        return model
    except (RuntimeError, ZeroDivisionError) as error:
        raise ConversionError(
            f"the model of the config cannot be built ({first_line(error)}); correct the config"
        ) from error


def build_translated(translation: Translation) -> SegZooForSemanticSegmentation:
    """Builds the model of a translation as `build_without_weights`, and compares the maps with what neck and heads read.

    Of a head that joins maps the original reads but the sum of their channels; one that lists them in another order gets
    the maps' own in its config.

    Raises:
        ConversionError: the values of the config contradict each other, or the neck or a head reads other maps than
            there are.
    """
    model = build_without_weights(translation.config)
    channels, source = list(model.backbone.channels), "the backbone"
    for component in translation.components:
        part = model.get_submodule(component.native_prefix.rstrip("."))
        if part is model.backbone:
            continue
        index, wanted = getattr(part.config, "in_index", None), list(part.config.in_channels)
        if getattr(part.config, "resize_concat", False):
            joined = [channels[i] for i in index if -len(channels) <= i < len(channels)]
            if len(joined) == len(wanted) and sum(joined) == sum(wanted):
                part.config.in_channels = joined
        if not part.fits(channels):
            maps, own = ("maps", "") if index is None else (f"maps {list(index)!s:.200}", " and in_index")
            raise ConversionError(
                f"{component.place}: {component.original_type} reads {maps} of {wanted!s:.200} channels, but {source} gives "
                f"maps of {channels} channels; correct in_channels{own} here, or out_indices of the backbone"
            )
        if part is model.neck:
            channels, source = list(part.out_channels), "the neck"
    return model


def refuse_other_tasks(state: Mapping[str, Tensor], title: str) -> None:
    """Raises an error if the keys are those of another kind of model.

    Args:
        state: tensors by original key.
        title: name of the file, for messages.

    Raises:
        ConversionError: the weights are of a detector, a classifier, a backbone, or a model that has been converted
            already.
    """
    first = {key.partition(".")[0] for key in state}
    if not first:
        raise ConversionError(f"{title}: the checkpoint holds no weights")
    if "decode_head" in first:
        return
    if is_decoder_state(state):
        raise ConversionError(
            f"{title}: this is the decoder of a model of MIT's scene parsing; give the encoder's file and then this one"
        )
    if first & {"rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head"}:
        raise ConversionError(
            f"{title}: this is a detection checkpoint (it has {_some(first)}); "
            "only semantic-segmentation models can be converted"
        )
    if "decode_heads" in first:
        raise ConversionError(f"{title}: this is a segzoo model already; load it with from_pretrained")
    if first & {"head", "fc", "classifier", "cls_head", "backbone", "layer1", "levels", "stages", "blocks", "conv1"}:
        raise ConversionError(
            f"{title}: this is a classification checkpoint or a backbone alone (it has {_some(first)}, and no "
            "decode_head); only whole semantic-segmentation models can be converted"
        )
    raise ConversionError(
        f"{title}: no weights of a segmentation model (it has {_some(first)}, and no decode_head); "
        "give a checkpoint of the mmsegmentation family"
    )


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _stem(path: str | Path) -> str:
    name = Path(path).name
    for ending in (".tar", ".pth", ".pt", ".zip", ".safetensors"):
        name = name.removesuffix(ending)
    return name


def _find_config(original: Original) -> tuple[Mapping[str, Any], str]:
    """The original config and where it came from: the caller, else the checkpoint, else the zoo, else the weights."""
    checkpoint, row = original.checkpoint, original.row or _released(original)
    if original.config is not None:
        return original.config, f"the file {original.config_file}"
    filename = f"{checkpoint.source} (config in the checkpoint)"
    if checkpoint.config_text:
        return read_config_text(checkpoint.config_text, filename=filename), _OWN_CONFIG
    if checkpoint.config:  # a few values that name each other many times are too many when they are written out
        return copy_tree(checkpoint.config, filename), _OWN_CONFIG
    if row is not None:
        config = zoo.original_config(row.name)
        if config is not None:
            return config, f"the zoo ({row.name})"
    config = config_from_weights(checkpoint.state_dict, checkpoint.source)
    if config is not None:
        return config, "the names and shapes of the weights"
    last = original.title.rpartition(" and ")[2]  # of two files the one that tells the model
    known = zoo.lookup(_stem(checkpoint.source)) or zoo.lookup(_stem(last))
    hint = (
        f"its file name is that of {known.name}: try --name {known.name}"
        if known
        else ("give the training config with --config FILE, or the zoo name with --name")
    )
    raise ConversionError(f"{checkpoint.source}: the checkpoint carries no config; {hint}")


def _check_class_count(original: Original, model: PreTrainedModel, components: Sequence[ComponentKeys]) -> None:
    """Raises an error if weights and config differ in their number of classes, instead of a list of wrong shapes."""
    state, expected = original.checkpoint.state_dict, model.state_dict()
    for component in components:
        if not isinstance(component.config, HeadConfig):
            continue
        key = component.table.to_original("classifier.weight")
        if key is not None and component.table.find(key)[0].change is not None:
            continue  # one channel became two; match_weights compares the shapes
        weight = None if key is None else state.get(component.original_prefix + key)
        native = expected.get(component.native_prefix + "classifier.weight")
        if weight is None or native is None or not weight.ndim or weight.shape[0] == native.shape[0]:
            continue
        layer = component.original_prefix + key.removesuffix(".weight")
        wanted = component.config.num_outputs
        more = native.shape[0] - wanted  # outputs that are not classes, such as Mask2Former's "no object"
        raise ConversionError(
            f"{original.title}: class counts disagree: the config has {wanted} classes, the weights of {layer} "
            f"{weight.shape[0] - more}; give the config that they were trained with"
        )


def _released(original: Original) -> zoo.ZooRow | None:
    """The released checkpoint that a file certainly is: its name is the release's, and its hash fits; or None."""
    row = zoo.lookup(_stem(original.title))
    start = None if row is None else row.sha256_start
    return row if start and original.checkpoint.sha256.startswith(start) else None


def _identify(original: Original) -> tuple[zoo.ZooRow | None, list[str]]:
    """The released checkpoint that a file is, judged by its name, or None; and notes about it.

    Scores and addresses of a release must not be put on a user's own training, which often bears the config's name. So
    a file whose name ends in digits of a hash, as OpenMMLab's do, is recognised only if they are digits of its own
    hash.
    """
    stem, sha256 = _stem(original.title), original.checkpoint.sha256
    row = zoo.lookup(stem)
    if row is None or row.url is None or stem != _stem(row.url):
        return None, []
    digits = re.search(r"-([0-9a-f]{8})$", stem)
    if digits is None:
        return row, [f"origin: the file was taken for the released {row.name} by its name alone"]
    if sha256.startswith(digits[1]):
        return row, []
    return None, [
        f"file: its name says that its SHA-256 begins with {digits[1]}, but it is {sha256}; "
        "unless you changed the file, download it again"
    ]
