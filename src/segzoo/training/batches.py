"""The pictures of a training as endless, ordered batches, and those that it is evaluated on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.data import SegmentationDataset, SegmentationStream, build_processor_transform
from segzoo.data.checks.first_batch import check_first_batch, check_rows
from segzoo.data.levels import LevelsTransform
from segzoo.data.row_counts import RowCounts
from segzoo.data.rows import undecoded
from segzoo.data.transforms import JointTransform
from segzoo.training.models import training_transform
from segzoo.training.options import RunOptions
from segzoo.training.order import BalancedBatches, EpochBatches, batch_sizes, training_batches
from segzoo.training.pictures import Pictures
from segzoo.training.recipes.recipe import Recipe


class TrainingBatches:
    """The pictures to train on, as endless batches.

    Args:
        rows: rows to train on; None if nothing is trained.
        transform: the training transform.
        options: options of the run.
        recipe: recipe of the training.
        num_labels: number of classes.
        accelerator: the accelerator of the training; its processes divide each batch.
        counts: the classes in the rows, for a recipe with balanced sampling.

    Raises:
        SegZooError: the recipe's batch cannot be divided over the processes, or there are fewer pictures than in one
            batch.
    """

    def __init__(
        self,
        rows: Any,
        transform: JointTransform,
        options: RunOptions,
        recipe: Recipe,
        *,
        num_labels: int,
        accelerator: Accelerator,
        counts: RowCounts | None = None,
    ):
        processes = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
        self.size, self.accumulation = batch_sizes(
            options.per_device_train_batch_size,
            options.gradient_accumulation_steps,
            recipe.total_train_batch_size,
            accelerator.num_processes,
        )
        self.pictures_a_step = self.size * accelerator.num_processes * self.accumulation
        self.rows, self.transform, self.streaming = rows, LevelsTransform(transform), options.streaming
        self.num_workers, self.device = options.dataloader_num_workers, accelerator.device
        self.order: EpochBatches | None = None
        self.data: SegmentationDataset | SegmentationStream | None = None
        shared = {"seed": options.seed, "num_labels": num_labels, "max_corrupt": options.max_corrupt}
        if rows is None:
            return
        if self.streaming:
            self.data = SegmentationStream(
                rows, self.transform, **shared, shuffle_buffer=options.shuffle_buffer, **processes
            )
        else:
            self.data = SegmentationDataset(rows, self.transform, **shared)
            if counts is not None and recipe.sampling == "balanced":
                self.order = BalancedBatches(
                    counts, self.size, temperature=recipe.sampling_temperature, seed=options.seed, **processes
                )
            else:
                self.order = EpochBatches(len(self.data), self.size, seed=options.seed, **processes)

    @property
    def an_epoch(self) -> int:
        """Number of batches of this process in an epoch; 0 for a stream, or if nothing is trained."""
        return 0 if self.order is None else self.order.batches_per_epoch

    def steps_of(self, recipe: Recipe) -> int:
        """Number of optimizer steps of a training by a recipe, at least 1."""
        passes = round((recipe.num_train_epochs or 0) * self.an_epoch, 6)  # 1.15 * 100 is a little less than 115
        return recipe.max_train_steps or max(1, int(passes) // self.accumulation)

    @property
    def num_pictures(self) -> int | None:
        """Number of pictures to train on; None for a stream, or if nothing is trained."""
        return None if self.rows is None or self.streaming else len(self.rows)

    def look(self, **rule: Any) -> list[str]:
        """Check the first batch of this process; ``rule`` and the returned notes are those of `check_first_batch`."""
        if self.order is None:
            rows = enumerate(undecoded(self.rows).take(self.size))
            return check_rows(rows, **rule, transform=self.transform, num_channels=self.data.num_channels)
        return check_first_batch(self.data, self.order.indices(0), **rule)

    def after(
        self, step: int, *, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Iterator[dict[str, Any]]:
        """Endless batches, beginning with the first one after ``step`` optimizer steps.

        Their pictures are on the device of the training and in its memory format, their labels on the CPU and of the smallest
        type that will do.
        """
        settings = {
            "first_batch": step * self.accumulation,
            "num_workers": self.num_workers,
            "pin_memory": self.device.type == "cuda",
            "collate": self.transform.collate,
        }
        if self.order is None:
            batches = self.data.batches(self.size, **settings)
        else:
            batches = training_batches(self.data, self.order, **settings)
        return self.transform.finished(batches, self.device, memory_format=memory_format)


@dataclass(frozen=True)
class PreparedData:
    """The pictures of a training, ready to be read.

    Args:
        batches: batches to train on.
        eval_data: pictures to evaluate on.
        looks: checks of the first pictures of both, each of which returns notes for the user, one line each.
    """

    batches: TrainingBatches
    eval_data: SegmentationDataset
    looks: list[Callable[[], list[str]]]


def prepare_data(
    options: RunOptions,
    recipe: Recipe,
    pictures: Pictures,
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    *,
    num_channels: int,
    counts: RowCounts | None = None,
) -> PreparedData:
    """Make the data sets and the order of the samples.

    Args:
        options: options of the run.
        recipe: recipe of the training.
        pictures: the rows and their classes.
        processor: the model's image processor.
        accelerator: the accelerator of the training.
        num_channels: number of channels that the model takes.
        counts: the classes in the training rows, if the recipe needs them.

    Raises:
        SegZooError: the recipe's batch cannot be divided over the processes, there are fewer pictures than in one
            batch, or the augmentation does not go with the channels or the processor's size.
    """
    num_labels, ignore_index = len(pictures.classes.id2label), options.ignore_index
    transform = training_transform(
        processor, recipe.augmentation, ignore_index=ignore_index, num_channels=num_channels
    )
    batches = TrainingBatches(
        pictures.train, transform, options, recipe, num_labels=num_labels, accelerator=accelerator, counts=counts
    )
    eval_transform = build_processor_transform(processor, ignore_index=ignore_index, num_channels=num_channels)
    eval_data = SegmentationDataset(
        pictures.evaluation, eval_transform, num_labels=num_labels, max_corrupt=options.max_corrupt
    )
    rule = {"num_labels": num_labels, "ignore_index": ignore_index, "reduce_labels": pictures.classes.reduce_labels}
    rule |= {"max_corrupt": options.max_corrupt}
    looks: list[Callable[[], list[str]]] = []
    if options.do_train:
        looks.append(partial(batches.look, **rule, crop_size=recipe.crop_size))
    if options.do_eval:
        looks.append(partial(check_first_batch, eval_data, range(min(4, len(eval_data))), **rule))
    return PreparedData(batches, eval_data, looks)
