"""The subject of an evaluation: a model, data and a protocol, checked against each other before the first image."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import nn

from segzoo.cards.scores import SCORING
from segzoo.configuration_segzoo import class_names, input_channels
from segzoo.data import SegmentationDataset, build_processor_transform
from segzoo.data.classes import ClassFacts, find_classes, plain_name
from segzoo.data.decoding import decode_pair
from segzoo.data.facts import DatasetFacts
from segzoo.data.loading import SPLIT_NAMES, DataSource, load_source
from segzoo.errors import SegZooError
from segzoo.evaluation.fingerprints import model_fingerprint, rows_fingerprint
from segzoo.evaluation.known import check_class_order, load_known_split, way_to_choose
from segzoo.evaluation.pictures import WrongPicture
from segzoo.evaluation.score_log import ImageRow
from segzoo.hub_names import no_hub_name
from segzoo.images.archives import plain_path
from segzoo.images.reading import in_colour
from segzoo.inference import InferenceSettings, Predictor
from segzoo.text import line_text

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """The pictures with masks that a model is scored on.

    Args:
        source: where the data come from.
        split: the part of the data, as the user calls it.
        rows: the table of pictures and masks.
        subset: which rows of the split these are, in words; None: all of them.
        dataset_id: the data set's name on the Hub, if it is known.
        facts: the data set, if the user named it.
    """

    source: DataSource
    split: str
    rows: Dataset
    subset: str | None = None
    dataset_id: str | None = None
    facts: DatasetFacts | None = None

    @property
    def name(self) -> str:
        """Folder or Hub name of the data."""
        return str(self.source)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What is to be scored, and how.

    Args:
        model: the model.
        processor: its image processor.
        model_name: folder or Hub name of the model, as the user calls it.
        data: the pictures with masks.
        classes: the classes of the data; as many as the model has, or fewer if the model's others have no names.
        settings: windows, scales, flips.
        dataset: the same pictures for `segzoo.evaluation.evaluate`.
        ignore_index: label of pixels that do not count.
        protocol: the settings in words.
        variant: the settings in a few letters, for file names.
        identity: everything that the scores depend on, even if only through rounding, as JSON values.
    """

    model: nn.Module
    processor: BaseImageProcessor
    model_name: str
    data: EvaluationData
    classes: ClassFacts
    settings: InferenceSettings
    dataset: SegmentationDataset
    ignore_index: int
    protocol: str
    variant: str
    identity: Mapping[str, Any]

    @property
    def num_labels(self) -> int:
        """Number of classes of the data."""
        return len(self.classes.id2label)

    @property
    def num_outputs(self) -> int:
        """Number of ids that the model may predict; those beyond the classes of the data are wrong everywhere."""
        return max(self.num_labels, self.model.config.num_labels)

    @property
    def title(self) -> str:
        """The data set's name for people."""
        path = self.data.source.path
        return self.classes.dataset or (path.resolve().name if path.exists() else self.data.name)

    def describe(self) -> str:
        """A text of three lines: model, data, protocol."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        rule = "; in the masks 0 is no class" if self.classes.reduce_labels else ""
        lines = (
            f"model: {self.model_name}, {parameters / 1e6:.1f} million parameters",
            f"data: {self.title} ({self.data.name}), {self.data.split}, {len(self.dataset)} images; {self.num_labels} classes "
            f"({self.classes.source}){rule}",
            f"protocol: {self.protocol}",
        )
        return "\n".join(map(line_text, lines))

    def wrong_picture(
        self,
        row: ImageRow,
        autocast: Callable[[], AbstractContextManager] | None = None,
        prediction: np.ndarray | None = None,
    ) -> WrongPicture:
        """What a picture of where an image is wrong is drawn from.

        Args:
            row: the image's scores.
            autocast: makes the context that the model runs in, such as ``accelerator.autocast``.
            prediction: the image's label map (height, width); None: it is predicted once more.
        """
        image, channels = self.dataset.dataset[row.index]["image"], self.dataset.num_channels
        picture, _ = decode_pair(image, None, image_name=row.name, num_channels=channels)
        truth = self.dataset[row.index]["labels"].numpy()
        if prediction is None:
            predictor = Predictor(self.model, self.processor, self.settings, autocast=autocast)
            prediction = predictor.label_map(picture, truth.shape).cpu().numpy()
        return WrongPicture(row, in_colour(picture), truth, prediction)


def prediction_files(folder: Path, rows: Dataset) -> list[Path]:
    """The file for the label map of each image.

    They have the images' names and subfolders, or numbers if the images have no paths or two would share a name.
    """
    if "image_path" in rows.column_names and None not in rows["image_path"]:
        paths = [Path(plain_path(str(path)).split("://")[-1].split("::")[0]) for path in rows["image_path"]]
        paths = [path.absolute() for path in paths]
        above = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(above).with_suffix(".png") for path in paths]
        if len(set(names)) == len(names):
            return [folder / name for name in names]
    return [folder / f"{index:06d}.png" for index in range(len(rows))]


def prepare_evaluation(
    model: nn.Module,
    processor: BaseImageProcessor,
    data: EvaluationData,
    classes: ClassFacts,
    settings: InferenceSettings,
    *,
    model_name: str,
    ignore_index: int = 255,
    mixed_precision: str = "no",
    batch_size: int = 1,
    device: str = "cpu",
) -> EvaluationJob:
    """Put an evaluation together and try its first image.

    Args:
        model: the model.
        processor: its image processor.
        data: the result of `load_split`.
        classes: the result of `classes_for`.
        settings: windows, scales and flips, such as those of `segzoo.inference.options.settings_from_options`.
        model_name: folder or Hub name of the model.
        ignore_index: label of pixels that do not count.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``.
        batch_size, device: they become part of the identity, since the scores depend on them through rounding.

    Raises:
        SegZooError: the first picture cannot be read, or its mask holds ids that are not classes.
    """
    num_labels = len(classes.id2label)
    if (uncounted := classes.uncounted(ignore_index)) is not None:
        warnings.warn(uncounted, stacklevel=2)
    transform = build_processor_transform(
        processor,
        reduce_labels=classes.reduce_labels,
        ignore_index=ignore_index,
        num_channels=input_channels(model.config),
    )
    dataset = SegmentationDataset(data.rows, transform, num_labels=num_labels, ignore_index=ignore_index)
    dataset[0]
    suffix = "" if mixed_precision == "no" else mixed_precision
    protocol = [settings.describe(processor), SCORING, f"{suffix} autocast" if suffix else None, data.subset]
    identity = {
        "model": model_fingerprint(model),
        "image processor": processor.to_dict(),
        "data": rows_fingerprint(data.rows),
        "split": data.split,
        "number of images": len(data.rows),
        "number of classes": num_labels,
        "ignore_index": ignore_index,
        "do_reduce_labels": classes.reduce_labels,
        **dataclasses.asdict(settings),
        "mixed_precision": mixed_precision,
        "batch_size": batch_size,
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    subset = [] if data.subset is None else [f"{len(data.rows)}-images"]
    return EvaluationJob(
        model=model,
        processor=processor,
        model_name=model_name,
        data=data,
        classes=classes,
        settings=settings,
        dataset=dataset,
        ignore_index=ignore_index,
        protocol="; ".join(part for part in protocol if part),
        variant="_".join([variant_of(settings), *([suffix] if suffix else []), *subset]),
        identity=identity,
    )


def load_split(
    source: DataSource | str | os.PathLike,
    split: str | None = None,
    *,
    max_samples: int | None = None,
    dataset_id: str | None = None,
    facts: DatasetFacts | None = None,
) -> EvaluationData:
    """The pictures and masks of one split.

    Args:
        source: where the data come from.
        split: name of the split; ``val`` and other usual names stand for ``validation`` if the data have no such
            split. None: ``validation``, or the part of a known data set that published scores are measured on.
        max_samples: take this many rows, spread evenly over the split; None: all.
        dataset_id: the data set's name on the Hub; None: the name of the source, unless that is a local path.
        facts: the known data set that these are; see `segzoo.evaluation.known.load_known_split`.

    Raises:
        SegZooError: there are no such data, or no such split, or they are not those of ``facts``.
    """
    source = DataSource.of(source)
    if facts is not None:
        found, rows = load_known_split(source, facts, split)
        split = split or found
    else:
        split = split or "validation"
        rows = _split_rows(source, split)
    subset = None
    count = len(rows)
    if max_samples is not None and max_samples < count:
        rows = rows.select([(2 * number + 1) * count // (2 * max_samples) for number in range(max_samples)])
        subset = f"only {max_samples} of {count} images, spread evenly"
    if dataset_id is None and not source.path.exists() and no_hub_name(str(source)) is None:
        dataset_id = str(source)
    return EvaluationData(source=source, split=split, rows=rows, subset=subset, dataset_id=dataset_id, facts=facts)


def _split_rows(source: DataSource, split: str) -> Dataset:
    splits = load_source(source)
    name = split if split in splits else SPLIT_NAMES.get(split.casefold(), split)
    if name not in splits:
        raise SegZooError(f"--split {split}: {source} has no such split; it has {', '.join(splits)}")
    return splits[name]


def classes_for(
    model: nn.Module,
    processor: BaseImageProcessor,
    data: str,
    *,
    classes: str | None = None,
    num_labels: int | None = None,
    reduce_labels: bool | None = None,
    model_name: str = "the model",
    facts: DatasetFacts | None = None,
) -> ClassFacts:
    """The classes of the data and their label rule, checked against the model.

    If the data name no classes, they are assumed to be the model's, with the image processor's label rule.

    Args:
        model: the model to be scored.
        processor: its image processor.
        data, classes, num_labels, reduce_labels: as in `segzoo.data.classes.find_classes`.
        model_name: the model's name in messages.
        facts: the known data set that these are; its classes and label rule come before all others.

    Raises:
        SegZooError: model and data have different numbers of classes, or the same in another order, or a class of the model
            is not that of ``facts``.

    Warns:
        UserWarning: classes with the same id have different names.
    """
    config = model.config
    names = class_names(config)
    if facts is not None:
        check_class_order(names, facts, model_name=model_name)
        return dataclasses.replace(find_classes(data, classes=facts.name), dataset=facts.title)
    found = find_classes(
        data, classes=classes, num_labels=num_labels, model_config=config, reduce_labels=reduce_labels
    )
    if len(found.id2label) != config.num_labels:
        fix = "take another model, or say with --classes or --num_labels what the data has"
        raise SegZooError(
            f"{model_name} has {config.num_labels} classes and the data {len(found.id2label)} ({found.source}): a model is "
            f"scored on data with its own classes; {way_to_choose(names, list(found.id2label.values())) or fix}"
        )
    if num_labels is not None:
        found = dataclasses.replace(found, id2label=dict(enumerate(names)))
    elif way := way_to_choose(names, list(found.id2label.values())):
        raise SegZooError(
            f"{model_name} and the data ({found.source}) have the same classes in another order, and scores compare ids; {way}. If "
            f"the masks do hold the model's ids, pass --num_labels {len(names)}"
        )
    if found.source == "the model" and reduce_labels is None:
        found = dataclasses.replace(found, reduce_labels=bool(getattr(processor, "do_reduce_labels", False)))
    differing = [index for index, name in found.id2label.items() if name != names[index]]
    if differing:
        first = differing[0]
        warnings.warn(
            f"{len(differing)} classes are called otherwise in the model, such as {first}, {found.id2label[first]!r} in the "
            f"data and {names[first]!r} in the model; scores compare ids, not names",
            stacklevel=2,
        )
    return found


def check_names_for_card(model: nn.Module, classes: ClassFacts, *, is_known: bool = False) -> None:
    """Check that scores of these classes say something about the model's, before they go into its card.

    Args:
        model: the model to be scored.
        classes: the result of `classes_for`.
        is_known: whether they are those of a data set that ``--dataset`` names.

    Raises:
        SegZooError: a class of the data is called otherwise than the model's with the same id.
    """
    names = class_names(model.config)
    differing = [index for index, name in classes.id2label.items() if plain_name(name) != plain_name(names[index])]
    if differing:
        first = differing[0]
        otherwise = "correct id2label in its config.json" if is_known else f"pass --num_labels {len(names)}"
        raise SegZooError(
            f"--write_card: {len(differing)} classes are called otherwise in the model, such as {first}, "
            f"{classes.id2label[first]!r} in the data and {names[first]!r} in the model, and the card would give the scores of one to "
            f"the other; leave --write_card out, or if they are the same classes, {otherwise}"
        )


def variant_of(settings: InferenceSettings) -> str:
    """Settings in a few letters, for file names: ``whole``, ``windows-512x512-341x341_scales-0.5-1_flip``."""
    parts = ["whole"]
    if settings.window_size is not None:
        parts = [f"windows-{'x'.join(map(str, settings.window_size))}-{'x'.join(map(str, settings.window_stride))}"]
    if tuple(settings.scales) != (1.0,):
        parts.append("scales-" + "-".join(f"{scale:g}" for scale in settings.scales))
    if settings.short_sides:
        parts.append("sides-" + "-".join(map(str, settings.short_sides)))
    if settings.flip:
        parts.append("flip")
    if settings.average != "probabilities" and len(parts) > 1:
        parts.append(settings.average)
    return "_".join(parts)
