"""Evaluation at the original size of every image, in constant memory."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from segzoo.data import collate_evaluation
from segzoo.evaluation import ConfusionMatrix


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        metrics: what `ConfusionMatrix.compute` returns: fractions, and one array a class-wise score.
        confusion: counts over all processes.
        num_images: images scored, in all processes together.
        seconds: wall-clock time.
    """

    metrics: Mapping[str, Any]
    confusion: ConfusionMatrix
    num_images: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """The scores that are one number, for JSON and trackers."""
        return {key: float(value) for key, value in self.metrics.items() if isinstance(value, float)}


@torch.no_grad()
def predict_label_maps(
    model, image_processor, batch: Mapping[str, Any], target_sizes: Sequence[tuple[int, int]]
) -> list[torch.Tensor]:
    """Label maps of a batch at the sizes asked for, exactly as each image alone gives them.

    Images of different sizes are padded to one size in a batch, and padding changes what a network sees near the
    border. So images of equal size go through the model together, and others apart. Sliding windows are used where
    ``model.config.window_size`` is set.

    Args:
        model: any semantic-segmentation model of transformers, in eval mode.
        image_processor: has ``post_process_semantic_segmentation``.
        batch: of `segzoo.data.collate_evaluation`: ``pixel_values`` and ``input_sizes``.
        target_sizes: (height, width) of each result, which are the original sizes.

    Returns:
        An int64 map (height, width) on the CPU for each image. They also fit the stock ``mean_iou`` as they are.
    """
    options = {}
    if getattr(model.config, "window_size", None) is not None:
        options = {"window_size": model.config.window_size, "window_stride": model.config.window_stride}
    groups: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(batch["input_sizes"]):
        groups.setdefault(tuple(size), []).append(position)
    results: list[torch.Tensor] = [torch.empty(0)] * len(batch["input_sizes"])
    for (height, width), positions in groups.items():
        outputs = model(pixel_values=batch["pixel_values"][positions][..., :height, :width], **options)
        maps = image_processor.post_process_semantic_segmentation(
            outputs, target_sizes=[tuple(target_sizes[position]) for position in positions]
        )
        for position, label_map in zip(positions, maps, strict=True):
            results[position] = label_map.cpu()
    return results


def evaluate(
    model,
    image_processor,
    dataset: Dataset,
    *,
    accelerator,
    num_labels: int,
    ignore_index: int | None = 255,
    batch_size: int = 1,
    num_workers: int = 0,
    channels_last: bool = False,
) -> Evaluation:
    """Score a model on a data set; every process of an `accelerate` run calls this.

    Each process takes every n-th image, so none counts twice however they divide; processes do not wait for each other
    before the end. No logits are kept: a confusion matrix is all that grows with the images.

    Args:
        model: as prepared by the accelerator, or bare; its mode is put back afterwards.
        image_processor: of the model.
        dataset: a `segzoo.data.SegmentationDataset` with `segzoo.data.build_processor_transform`: masks keep their size.
        accelerator: an `accelerate.Accelerator`.
        num_labels, ignore_index: for the confusion matrix.
        batch_size: images a batch; the result does not depend on it.
        num_workers: processes that load.
        channels_last: the memory format that the model is in.
    """
    start = time.perf_counter()
    model = accelerator.unwrap_model(model)
    own = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    loader = DataLoader(
        Subset(dataset, own),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate_evaluation,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # leaves the global random numbers alone
    )
    confusion = ConfusionMatrix(num_labels, ignore_index)
    was_training = model.training
    model.eval()
    try:
        with accelerator.autocast():
            for batch in loader:
                pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
                if channels_last:
                    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
                batch = {**batch, "pixel_values": pixel_values}
                confusion.update(
                    predict_label_maps(model, image_processor, batch, batch["target_sizes"]), batch["labels"]
                )
    finally:
        model.train(was_training)
    confusion = confusion.reduce_across_processes(accelerator)
    return Evaluation(confusion.compute(), confusion, len(dataset), time.perf_counter() - start)
