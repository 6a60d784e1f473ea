"""A model, data and a protocol that fit each other: what an evaluation is about, checked before its first image."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from segzoo.cards.scores import SCORING
from segzoo.data import SegmentationDataset, build_processor_transform, load_segmentation_dataset
from segzoo.data.classes import ClassFacts, find_classes
from segzoo.data.decoding import decode_pair
from segzoo.data.loading import SPLIT_NAMES
from segzoo.errors import SegZooError
from segzoo.evaluation.fingerprints import model_fingerprint, rows_fingerprint
from segzoo.evaluation.pictures import WrongPicture
from segzoo.evaluation.score_log import ImageRow
from segzoo.inference import InferenceSettings, Predictor


@dataclass(frozen=True)
class EvaluationJob:
    """What is to be scored, how.

    Args:
        model, processor: loaded.
        model_name, data, split: where model and data come from, as the user calls them.
        settings: windows, scales, flips.
        dataset: what `segzoo.inference.evaluate` takes.
        rows: the table behind it.
        classes: of the data; as many as the model has.
        ignore_index: label that does not count.
        protocol, variant: the settings in words, and in a few letters for file names.
        identity: everything that the scores depend on, be it by rounding, as JSON values.
        title: the data set's name for people.
        dataset_id: its name on the Hub, if it is known.
    """

    model: Any
    processor: Any
    model_name: str
    data: str
    split: str
    settings: InferenceSettings
    dataset: SegmentationDataset
    rows: Any
    classes: ClassFacts
    ignore_index: int
    protocol: str
    variant: str
    identity: Mapping[str, Any]
    title: str
    dataset_id: str | None

    @property
    def num_labels(self) -> int:
        """Number of classes, of data and model."""
        return len(self.classes.id2label)

    def describe(self) -> str:
        """What is about to be scored, in three lines: model, data, protocol."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        rule = "; in the masks 0 is no class" if self.classes.reduce_labels else ""
        return (
            f"model: {self.model_name}, {parameters / 1e6:.1f} million parameters\n"
            f"data: {self.title} ({self.data}), {self.split}, {len(self.dataset)} images; {self.num_labels} classes "
            f"({self.classes.source}){rule}\n"
            f"protocol: {self.protocol}"
        )

    def prediction_files(self, folder: Path) -> list[Path]:
        """Where the label map of each image goes: named as the image, in the same subfolders; else by number."""
        if "image_path" in self.rows.column_names:
            paths = [Path(str(path).split("://")[-1].split("::")[0]) for path in self.rows["image_path"]]
            above = os.path.commonpath([path.parent for path in paths])
            names = [path.relative_to(above).with_suffix(".png") for path in paths]
            if len(set(names)) == len(names):
                return [folder / name for name in names]
        return [folder / f"{index:06d}.png" for index in range(len(self.rows))]

    def wrong_picture(
        self, row: ImageRow, autocast: Callable[[], AbstractContextManager] | None = None
    ) -> WrongPicture:
        """Predict an image once more, for its picture.

        Args:
            row: its scores.
            autocast: makes the context that the model runs in, such as ``accelerator.autocast``.
        """
        picture, _ = decode_pair(self.rows[row.index]["image"], None, image_name=row.name)
        truth = self.dataset[row.index]["labels"].numpy()
        predictor = Predictor(self.model, self.processor, self.settings, autocast=autocast)
        return WrongPicture(row, picture, truth, predictor.label_map(picture, truth.shape).cpu().numpy())


def prepare_evaluation(
    model,
    processor,
    *,
    model_name: str,
    data: str,
    rows,
    classes: ClassFacts,
    settings: InferenceSettings,
    split: str = "validation",
    subset: str | None = None,
    ignore_index: int = 255,
    dataset_id: str | None = None,
    mixed_precision: str = "no",
    batch_size: int = 1,
    device: str = "cpu",
) -> EvaluationJob:
    """Put everything together and try the first image.

    Args:
        model, processor: loaded.
        model_name: where they come from.
        data: folder or Hub name that the rows are of.
        rows: of `load_split`.
        classes: of `classes_for`.
        settings: of `segzoo.inference.options.settings_from_options`.
        split: the rows' part of the data.
        subset: in words, where the rows are not all of the split.
        ignore_index: label that does not count.
        dataset_id: the data set's name on the Hub; None: ``data``, where that is no folder.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``.
        batch_size, device: what else the scores depend on, by rounding.

    Raises:
        SegZooError: the first picture cannot be read, or its mask holds other ids than the classes.
    """
    num_labels = len(classes.id2label)
    if ignore_index in classes.id2label:
        warnings.warn(
            f"ignore_index {ignore_index} is {classes.id2label[ignore_index]!r}, which does not count", stacklevel=2
        )
    transform = build_processor_transform(processor, reduce_labels=classes.reduce_labels, ignore_index=ignore_index)
    dataset = SegmentationDataset(rows, transform, num_labels=num_labels, ignore_index=ignore_index)
    dataset[0]
    suffix = "" if mixed_precision == "no" else mixed_precision
    protocol = [settings.describe(processor), SCORING, f"{suffix} autocast" if suffix else None, subset]
    identity = {
        "model": model_fingerprint(model),
        "image processor": processor.to_dict(),
        "data": rows_fingerprint(rows),
        "split": split,
        "number of images": len(rows),
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
    is_local = Path(data).exists()
    return EvaluationJob(
        model=model,
        processor=processor,
        model_name=model_name,
        data=data,
        split=split,
        settings=settings,
        dataset=dataset,
        rows=rows,
        classes=classes,
        ignore_index=ignore_index,
        protocol="; ".join(part for part in protocol if part),
        variant="_".join([variant_of(settings), *([suffix] if suffix else [])]),
        identity=identity,
        title=classes.dataset or (Path(data).resolve().name if is_local else data),
        dataset_id=dataset_id or (None if is_local else data),
    )


def load_split(
    data: str,
    split: str = "validation",
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    max_samples: int | None = None,
) -> tuple[Any, str | None]:
    """The table of pictures and masks of one split, and what part of it that is, in words, if it is not all of it.

    Args:
        data, config_name, image_column, label_column: as in `segzoo.data.load_segmentation_dataset`.
        split: its name; ``val`` is ``validation``.
        max_samples: take so many rows, spread evenly.

    Raises:
        SegZooError: no such data, or no such split.
    """
    splits = load_segmentation_dataset(data, config_name, image_column=image_column, label_column=label_column)
    name = split if split in splits else SPLIT_NAMES.get(split.casefold(), split)
    if name not in splits:
        raise SegZooError(f"--split {split}: {data} has no such split; it has {', '.join(splits)}")
    rows = splits[name]
    count = len(rows)
    if max_samples is None or max_samples >= count:
        return rows, None
    rows = rows.select([(2 * number + 1) * count // (2 * max_samples) for number in range(max_samples)])
    return rows, f"only {max_samples} of {count} images, spread evenly"


def classes_for(
    model,
    processor,
    data: str,
    *,
    classes: str | None = None,
    num_labels: int | None = None,
    reduce_labels: bool | None = None,
    model_name: str = "the model",
) -> ClassFacts:
    """The classes of the data, with the label rule, once they are as many as the model's.

    Args:
        model, processor: what is to be scored.
        data, classes, num_labels, reduce_labels: as in `segzoo.data.classes.find_classes`. Where nothing is known of
            the data, its classes and its label rule are taken to be the model's.
        model_name: for messages.

    Raises:
        SegZooError: the numbers of classes differ.
    """
    config = model.config
    names = {int(index): name for index, name in config.id2label.items()}
    found = find_classes(
        data, classes=classes, num_labels=num_labels, model_config=config, reduce_labels=reduce_labels
    )
    if len(found.id2label) != config.num_labels:
        raise SegZooError(
            f"{model_name} has {config.num_labels} classes and the data {len(found.id2label)} ({found.source}): a model is "
            "scored on data with its own classes; take another model, or say with --classes or --num_labels what the data has"
        )
    if num_labels is not None:
        found = dataclasses.replace(found, id2label=names)
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


def variant_of(settings: InferenceSettings) -> str:
    """Settings in a few letters for file names: ``whole``, ``windows-512x512-341x341_scales-0.5-1_flip``."""
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
