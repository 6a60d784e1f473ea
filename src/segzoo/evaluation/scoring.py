"""Scoring a model on a data set: at every image's original size, in constant memory, with any number of processes."""

import copy
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.data import SegmentationDataset, reduce_labels
from segzoo.data.dataset import too_many_corrupt
from segzoo.data.loader import Loader
from segzoo.errors import SegZooError
from segzoo.images.reading import CorruptImageError
from segzoo.inference.predictor import Predictor, evaluation_mode
from segzoo.inference.settings import InferenceSettings
from segzoo.inference.streams import in_streams, number_of_streams
from segzoo.inference.views import ViewMaker
from segzoo.metrics import ConfusionMatrix


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        metrics: the result of `ConfusionMatrix.compute`: scores as fractions, class-wise ones as arrays.
        confusion: counts over all processes.
        num_images: number of images scored, in all processes and including those scored before an interruption; broken
            ones that were left out do not count.
        seconds: wall-clock time of this run.
    """

    metrics: Mapping[str, Any]
    confusion: ConfusionMatrix
    num_images: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """The scores that are a single number, by name; for JSON and trackers."""
        return {key: float(value) for key, value in self.metrics.items() if isinstance(value, float)}


class EvaluationStopped(Exception):
    """An evaluation was given up in all processes, because one of them was asked to; it has no result."""


@dataclass(frozen=True)
class ImageScore:
    """The score of one image, in the process that scored it.

    Args:
        index: position in the data set.
        name: file of the image.
        mean_iou: mean over the classes that occur in truth or prediction, 0 to 1; NaN if no pixel counts.
        pixel_accuracy: share of correct pixels, 0 to 1; NaN if no pixel counts.
        num_pixels: number of pixels that count.
        confusion: counts of this image, int64 (num_labels, num_labels); rows truth, columns prediction.
        prediction: label map (height, width) on the CPU, in the smallest integer type of `Predictor`.
    """

    index: int
    name: str
    mean_iou: float
    pixel_accuracy: float
    num_pixels: int
    confusion: torch.Tensor
    prediction: torch.Tensor


@dataclass(frozen=True)
class _ViewTransform:
    """Makes the views of a picture, and keeps its mask's size and type."""

    views: ViewMaker
    reduce_labels: bool
    ignore_index: int

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, Any]:
        item = {"views": self.views(image)}
        if mask is not None:
            labels = torch.from_numpy(mask if mask.flags.writeable else mask.copy())
            item["labels"] = reduce_labels(labels, self.ignore_index) if self.reduce_labels else labels
        return item


class _Samples(Dataset):
    """A data set that returns errors as items: raised in a loading process, they would become tracebacks."""

    def __init__(self, dataset: SegmentationDataset, views: ViewMaker):
        transform = dataset.transform
        self.dataset = copy.copy(dataset)
        self.dataset.transform = _ViewTransform(views, transform.reduce_labels, transform.ignore_index)
        self.dataset.max_corrupt = 0  # a broken image must not be replaced by another one
        self.max_corrupt = dataset.max_corrupt
        self.num_corrupt = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def readable(self, items: list[dict[str, Any] | SegZooError]) -> list[dict[str, Any]]:
        """The items that are no errors, after counting the broken ones of this process.

        Raises:
            SegZooError: an item is an error other than a broken file, or there are more of these than `max_corrupt`.
        """
        for item in items:
            if not isinstance(item, SegZooError):
                continue
            if not self.max_corrupt or not isinstance(item, CorruptImageError):
                raise item
            if self.num_corrupt == self.max_corrupt:
                raise too_many_corrupt(item, self.max_corrupt)
            self.num_corrupt += 1
            warnings.warn(
                f"{item} It is left out of the scores (broken sample {self.num_corrupt} of at most {self.max_corrupt}).",
                stacklevel=3,
            )
        return [item for item in items if not isinstance(item, SegZooError)]

    def __getitem__(self, index: int) -> dict[str, Any] | SegZooError:
        try:
            item = self.dataset[index]
        except SegZooError as error:
            return error
        return item if "labels" in item else SegZooError(f"{item['name']}: there is no mask, so it cannot be scored")


def evaluate(
    model: nn.Module,
    image_processor: BaseImageProcessor,
    dataset: SegmentationDataset,
    *,
    accelerator: Accelerator,
    num_labels: int,
    ignore_index: int | None = 255,
    settings: InferenceSettings | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    channels_last: bool = False,
    num_streams: int | None = None,
    start: ConfusionMatrix | None = None,
    done: Collection[int] = (),
    on_image: Callable[[ImageScore], None] | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Evaluation:
    """Score a model on a data set; every process of an `accelerate` run calls this.

    The data set is cut into fixed batches of neighbouring images, and each process takes every n-th batch: no image
    counts twice, even if the numbers do not divide evenly, and the result does not depend on the number of processes.
    Processes wait for each other only at the end. No logits are kept: memory does not grow with the number of images.

    Args:
        model: as prepared by the accelerator, or unwrapped; its mode is restored afterwards.
        image_processor: the model's image processor.
        dataset: pictures with masks. Of its transform (`segzoo.data.build_processor_transform`) only the label rule is
            used: pictures go through ``image_processor``, and masks keep their size. Up to ``dataset.max_corrupt``
            samples of each process that cannot be read are left out, with a warning for each.
        accelerator: the accelerator of this process.
        num_labels: number of classes.
        ignore_index: label of pixels that do not count; None: all count.
        settings: windows, scales and flips; None: the windows that the model comes with, if any.
        batch_size: images per batch. Those of one size go through the model together, unless windows are used; the
            result depends on it only through rounding.
        num_workers: number of data-loading processes; 0 loads in this process.
        channels_last: whether the model is in the channels-last memory format.
        num_streams: number of batches that go through the model at the same time if they are small, on a CPU; None: see
            `segzoo.inference.streams.number_of_streams`.
        start: counts of the images in ``done``; all processes pass the same counts, and they are added once.
        done: indices of images that are not scored again.
        on_image: called after each image, in the process that scored it and in the order of its batches. An exception
            that it raises ends the evaluation.
        is_stopped: asked after each image, in the process that scored it, whether to give up the evaluation; all processes
            pass it, or none.

    Raises:
        SegZooError: a picture or mask cannot be read or does not fit, or outputs of the model are no numbers.
        EvaluationStopped: in every process, if ``is_stopped`` has said so in one of them.

    Warns:
        UserWarning: no pixel of any picture counts.
    """
    begin = time.perf_counter()
    model = accelerator.unwrap_model(model)
    predictor = Predictor(
        model,
        image_processor,
        settings,
        device=accelerator.device,
        autocast=accelerator.autocast,
        channels_last=channels_last,
    )
    samples = _Samples(dataset, predictor.views)
    loader = Loader(
        samples,
        own_batches(len(samples), batch_size, frozenset(done), accelerator.process_index, accelerator.num_processes),
        collate=list,
        num_workers=num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    def scored(items: list[dict[str, Any]]) -> list[ImageScore]:
        sizes = [tuple(item["labels"].shape) for item in items]
        maps = predictor.label_maps([item["views"] for item in items], sizes)
        return [
            _score(item, label_map.cpu(), ConfusionMatrix(num_labels, ignore_index))
            for item, label_map in zip(items, maps, strict=True)
        ]

    def is_small(items: list[dict[str, Any]]) -> bool:
        return predictor.is_small([tuple(item["labels"].shape) for item in items])

    confusion = ConfusionMatrix(num_labels, ignore_index)
    batches = filter(None, map(samples.readable, loader))
    count, stopped = number_of_streams(model, num_streams), False
    with evaluation_mode(model), closing(in_streams(scored, batches, count=count, is_small=is_small)) as results:
        for image in chain.from_iterable(results):
            confusion.matrix += image.confusion
            if on_image is not None:
                on_image(image)
            if stopped := is_stopped is not None and is_stopped():
                break
    if is_stopped is not None and any_process(accelerator, stopped):
        raise EvaluationStopped
    confusion = confusion.reduce_across_processes(accelerator)
    if start is not None:
        confusion.merge(start)
    num_images = len(samples)
    if samples.max_corrupt:
        num_corrupt = torch.tensor([samples.num_corrupt], device=accelerator.device)
        num_images -= int(accelerator.reduce(num_corrupt, reduction="sum").item())
    if num_images and accelerator.process_index == 0 and not confusion.matrix.any():
        warnings.warn(
            f"no pixel of the {num_images} pictures counts, so that there is no score: all labels are {ignore_index}, the label "
            "that is ignored; look at the masks (`segzoo data check`), --do_reduce_labels and --ignore_index",
            stacklevel=2,
        )
    return Evaluation(confusion.compute(), confusion, num_images, time.perf_counter() - begin)


def check_views(
    image_processor: BaseImageProcessor, dataset: SegmentationDataset, settings: InferenceSettings
) -> None:
    """Make the first picture of a data set ready as `evaluate` does, before there is anything to score.

    Raises:
        SegZooError: the image processor cannot follow the settings. A picture that cannot be read is no error here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluation has them
        item = _Samples(dataset, ViewMaker(image_processor, settings))[0]
    if isinstance(item, SegZooError) and not isinstance(item, CorruptImageError):
        raise item


def own_batches(
    num_images: int, batch_size: int, done: Collection[int], process_index: int, num_processes: int
) -> list[list[int]]:
    """The batches of one process: every n-th batch of the data set, without the images in ``done``."""
    firsts = range(process_index * batch_size, num_images, num_processes * batch_size)
    batches = [range(first, min(first + batch_size, num_images)) for first in firsts]
    left = [[index for index in batch if index not in done] for batch in batches]
    return [batch for batch in left if batch]


def any_process(accelerator: Accelerator, answer: bool) -> bool:
    """Whether the answer is yes in any process; every process calls this at the same point."""
    if accelerator.num_processes == 1:
        return answer
    yes = torch.tensor([float(answer)], device=accelerator.device)
    return bool(accelerator.reduce(yes, reduction="sum").item())


def _score(item: Mapping[str, Any], label_map: torch.Tensor, confusion: ConfusionMatrix) -> ImageScore:
    confusion.update(label_map, item["labels"])
    metrics = confusion.compute()
    return ImageScore(
        index=item["index"],
        name=item["name"],
        mean_iou=metrics["mean_iou"],
        pixel_accuracy=metrics["overall_accuracy"],
        num_pixels=int(confusion.matrix.sum()),
        confusion=confusion.matrix,
        prediction=label_map,
    )
