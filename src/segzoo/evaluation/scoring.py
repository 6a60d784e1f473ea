"""Scoring a model on a data set: at the original size of every image, in constant memory, in any number of processes."""

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segzoo.data import SegmentationDataset, reduce_labels
from segzoo.data.workers import outlive_stop_signals
from segzoo.errors import SegZooError
from segzoo.inference.predictor import Predictor, evaluation_mode
from segzoo.inference.settings import InferenceSettings
from segzoo.inference.views import ViewMaker
from segzoo.metrics import ConfusionMatrix


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        metrics: what `ConfusionMatrix.compute` returns: fractions, and one array a class-wise score.
        confusion: counts over all processes.
        num_images: images scored, in all processes together and before an interruption.
        seconds: wall-clock time of this run.
    """

    metrics: Mapping[str, Any]
    confusion: ConfusionMatrix
    num_images: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """The scores that are one number, for JSON and trackers."""
        return {key: float(value) for key, value in self.metrics.items() if isinstance(value, float)}


@dataclass(frozen=True)
class ImageScore:
    """The score of one image, in the process that scored it.

    Args:
        index: position in the data set.
        name: its file.
        mean_iou: mean over the classes that occur in truth or prediction, 0 to 1; NaN where no pixel counts.
        pixel_accuracy: share of right pixels, 0 to 1; NaN where no pixel counts.
        num_pixels: pixels that count.
        confusion: counts of this image, int64 (num_labels, num_labels); rows truth, columns prediction.
        prediction: label map (height, width) on the CPU, of a small integer type.
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
    """A picture as its views, its mask at its own size and in its own type."""

    views: ViewMaker
    reduce_labels: bool
    ignore_index: int

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None, rng=None) -> dict[str, Any]:
        item = {"views": self.views(image)}
        if mask is not None:
            labels = torch.from_numpy(mask if mask.flags.writeable else mask.copy())
            item["labels"] = reduce_labels(labels, self.ignore_index) if self.reduce_labels else labels
        return item


class _Samples(Dataset):
    """A data set whose errors travel as items: raised in a loading process, their one line would become a traceback."""

    def __init__(self, dataset: SegmentationDataset, views: ViewMaker):
        transform = dataset.transform
        self.dataset = copy.copy(dataset)
        self.dataset.transform = _ViewTransform(views, transform.reduce_labels, transform.ignore_index)
        self.dataset.max_corrupt = 0  # no other image stands in for one that is to be scored

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any] | SegZooError:
        try:
            item = self.dataset[index]
        except SegZooError as error:
            return error
        return item if "labels" in item else SegZooError(f"{item['name']}: there is no mask, so it cannot be scored")


def evaluate(
    model,
    image_processor,
    dataset: SegmentationDataset,
    *,
    accelerator,
    num_labels: int,
    ignore_index: int | None = 255,
    settings: InferenceSettings | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    channels_last: bool = False,
    start: ConfusionMatrix | None = None,
    done: Collection[int] = (),
    on_image: Callable[[ImageScore], None] | None = None,
) -> Evaluation:
    """Score a model on a data set; every process of an `accelerate` run calls this.

    The data set is cut into fixed batches of neighbours, and each process takes every n-th of them: no image counts twice
    however they divide, and the result does not depend on the number of processes. Processes do not wait for each other
    before the end. No logits are kept: a confusion matrix is all that grows with the images.

    Args:
        model: as prepared by the accelerator, or bare; its mode is put back afterwards.
        image_processor: of the model.
        dataset: pictures with masks. Of its transform (`segzoo.data.build_processor_transform`) the label rule is used;
            pictures go through ``image_processor``, and masks keep their size.
        accelerator: an `accelerate.Accelerator`.
        num_labels, ignore_index: for the confusion matrix.
        settings: windows, scales and flips; None: the windows that the model comes with, if any.
        batch_size: images a batch. Those of one size go through the model together, unless by windows; the result depends
            on it only by the rounding of other batches.
        num_workers: processes that load.
        channels_last: the memory format that the model is in.
        start: counts of the images in ``done``; all processes pass the same, and it is added once.
        done: indices of images that are not scored again.
        on_image: called after each image, in the process that scored it and in the order of its batches. What it raises ends
            the evaluation.

    Raises:
        SegZooError: a picture or mask cannot be read or does not fit.
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
    loader = DataLoader(
        samples,
        batch_sampler=own_batches(
            len(samples), batch_size, frozenset(done), accelerator.process_index, accelerator.num_processes
        ),
        num_workers=num_workers,
        collate_fn=list,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=outlive_stop_signals,
        generator=torch.Generator(),  # leaves the global random numbers alone
    )
    confusion = ConfusionMatrix(num_labels, ignore_index)
    with evaluation_mode(model):
        for items in loader:
            for item in items:
                if isinstance(item, SegZooError):
                    raise item
            sizes = [tuple(item["labels"].shape) for item in items]
            maps = predictor.label_maps([item["views"] for item in items], sizes)
            for item, label_map in zip(items, maps, strict=True):
                label_map = label_map.cpu()
                own = ConfusionMatrix(num_labels, ignore_index)
                own.update(label_map, item["labels"])
                confusion.merge(own)
                if on_image is not None:
                    on_image(_score(item, label_map, own))
    confusion = confusion.reduce_across_processes(accelerator)
    if start is not None:
        confusion.merge(start)
    return Evaluation(confusion.compute(), confusion, len(samples), time.perf_counter() - begin)


def own_batches(
    num_images: int, batch_size: int, done: Collection[int], process_index: int, num_processes: int
) -> list[list[int]]:
    """The batches of one process: every n-th of those that the data set is cut into, without the images in ``done``."""
    firsts = range(process_index * batch_size, num_images, num_processes * batch_size)
    batches = [range(first, min(first + batch_size, num_images)) for first in firsts]
    left = [[index for index in batch if index not in done] for batch in batches]
    return [batch for batch in left if batch]


def _score(item: Mapping[str, Any], label_map: torch.Tensor, confusion: ConfusionMatrix) -> ImageScore:
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
