"""The inputs of a training: pictures and classes, the model with its image processor, and ordered batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.configuration_segzoo import input_channels
from segzoo.data import (
    DataSource,
    SegmentationDataset,
    SegmentationStream,
    build_processor_transform,
    collate_training,
)
from segzoo.data.checks.first_batch import check_first_batch, check_rows
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.classes import ClassFacts, find_classes
from segzoo.data.mixture import mixture_facts
from segzoo.data.row_counts import RowCounts, count_rows
from segzoo.data.rows import row_names, undecoded
from segzoo.data.splits import load_splits
from segzoo.data.transforms import JointTransform
from segzoo.errors import SegZooError
from segzoo.evaluation.fingerprints import rows_fingerprint
from segzoo.training.models import (
    BuiltModel,
    ModelRequest,
    NewModel,
    build_processor,
    crop_size_of,
    load_config,
    start_model,
    training_transform,
)
from segzoo.training.options import RunOptions
from segzoo.training.order import BalancedBatches, EpochBatches, batch_sizes, training_batches
from segzoo.training.processes import run_together
from segzoo.training.recipes.recipe import Recipe
from segzoo.universal import check_learns


@dataclass(frozen=True)
class Pictures:
    """The rows of the data, and their classes.

    Args:
        train: rows to train on, a `datasets.Dataset` or with streaming an iterable one; None if the data have no such
            split.
        evaluation: rows to evaluate on.
        classes: the classes of both.
    """

    train: Any
    evaluation: Any
    classes: ClassFacts

    def describe(self, options: RunOptions) -> dict[str, Any]:
        """The name, sizes and fingerprints of the data, by which a resumed training knows that they are others.

        The fingerprints read the size and time of every file, but no file; a stream has none.
        """
        name = options.dataset_name
        facts: dict[str, Any] = {"data set": str(Path(name).resolve()) if Path(name).exists() else name}
        facts |= {"configuration of the data set": options.dataset_config_name, **mixture_facts(name)}
        for split, rows in (("training", self.train), ("evaluation", self.evaluation)):
            if hasattr(rows, "column_names") and hasattr(rows, "__len__"):
                facts |= {
                    f"{split} pictures": len(rows),
                    f"fingerprint of the {split} pictures": rows_fingerprint(rows),
                }
        return facts


def load_pictures(options: RunOptions, recipe: Recipe, accelerator: Accelerator) -> Pictures:
    """Load the rows and the classes that the options and the recipe name.

    Raises:
        SegZooError: the data or the config that names the classes cannot be loaded, the classes are not known, or
            there is no split to train on.
    """
    with accelerator.main_process_first():  # it fills the cache for the others
        source = DataSource(
            options.dataset_name,
            config_name=options.dataset_config_name,
            streaming=options.streaming,
            image_column=options.image_column,
            label_column=options.label_column,
            palette=options.palette,
            tile=options.tile,
            tile_stride=options.tile_stride,
            cache_dir=options.cache_dir,
            token=options.hub_options["token"],
        )
        train, evaluation = load_splits(
            source,
            train_val_split=options.train_val_split,
            train_val_groups=options.train_val_groups,
            max_train_samples=options.max_train_samples,
            train_fraction=recipe.train_fraction,
            max_eval_samples=options.max_eval_samples,
            seed=options.seed,
        )
    if train is None and options.do_train:
        raise SegZooError(f"{options.dataset_name} has no train split; pass --do_eval alone to evaluate")
    classes = find_classes(
        options.dataset_name,
        classes=options.classes or (None if options.num_labels else options.palette),
        num_labels=options.num_labels,
        model_config=load_config(options.config_name or options.model_name_or_path, options.hub_options),
        reduce_labels=options.do_reduce_labels,
        token=options.hub_options["token"],
    )
    return Pictures(train, evaluation, classes)


def count_training_classes(options: RunOptions, pictures: Pictures, accelerator: Accelerator, file: Path) -> RowCounts:
    """Count the classes in the training masks, once for a training and those that go on from it.

    Args:
        options: options of the run.
        pictures: the rows and their classes.
        accelerator: the accelerator of the training; its processes divide the masks.
        file: where the main process keeps the counts.

    Raises:
        SegZooError: a mask cannot be read, or does not hold class ids.
    """
    rule = LabelRule(len(pictures.classes.id2label), options.ignore_index, pictures.classes.reduce_labels)

    def earlier() -> tuple[str, RowCounts | None]:
        key = f"{rows_fingerprint(pictures.train)} {rule}"
        return key, RowCounts.load(file, key)

    key, counts = run_together(accelerator, earlier, main_only=True)
    if counts is not None:
        return counts
    mine: list[RowCounts] = []
    run_together(
        accelerator,
        lambda: mine.append(
            count_rows(
                pictures.train,
                rule,
                num_workers=options.dataloader_num_workers,
                process_index=accelerator.process_index,
                num_processes=accelerator.num_processes,
                skip_corrupt=options.max_corrupt > 0,
            )
        ),
    )
    counts = RowCounts.joined(mine if accelerator.num_processes == 1 else gather_object(mine))
    run_together(accelerator, lambda: counts.save(file, key), main_only=True)
    return counts


def picture_names(rows: Any) -> str:
    """The names of the pictures of a table, one a line, as messages show them."""
    return "".join(f"{row_names(row, i)[0]}\n" for i, row in enumerate(undecoded(rows)))


@dataclass(frozen=True)
class LoadedModel:
    """The model of a training, and what belongs to it.

    Args:
        built: the model, and the weights that it begins with.
        processor: the image processor that it is tested and saved with.
        recipe: the recipe with crops and photometric distortion that fit them.
    """

    built: BuiltModel
    processor: BaseImageProcessor
    recipe: Recipe


def load_model(options: RunOptions, recipe: Recipe, classes: ClassFacts) -> LoadedModel:
    """Load or make the model that the options name.

    Args:
        options: options of the run.
        recipe: recipe of the training.
        classes: the classes of the data.

    Raises:
        SegZooError: the options name no model or more than one, or one that cannot be loaded or does not fit.
    """
    new = None
    if options.backbone is not None:
        new = NewModel(
            options.backbone,
            options.head,
            options.head_channels,
            options.auxiliary_channels,
            random_backbone=options.random_backbone,
        )
    request = ModelRequest(
        new=new,
        model_name_or_path=options.model_name_or_path,
        config_name=options.config_name,
        num_channels=options.num_channels,
        ignore_index=options.ignore_index,
        crop_size=recipe.crop_size,
        hub_options=options.hub_options,
        verify=options.verify,
    )
    built = start_model(classes, recipe.model_options, request)
    if options.do_train:
        check_learns(built.model.config)
    processor = build_processor(
        built.model,
        classes,
        image_processor_name=options.image_processor_name or options.model_name_or_path,
        scale_size=recipe.eval_scale_size or recipe.scale_size,
        keep_ratio=recipe.keep_ratio,
        size_divisor=recipe.size_divisor,
        ignore_index=options.ignore_index,
        hub_options=options.hub_options,
    )
    if options.crop_by_model:
        recipe = replace(recipe, crop_size=crop_size_of(processor))
    return LoadedModel(built, processor, recipe.for_channels(input_channels(built.model.config)))


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
        self.rows, self.transform, self.streaming = rows, transform, options.streaming
        self.num_workers, self.pin_memory = options.dataloader_num_workers, accelerator.device.type == "cuda"
        self.collate = partial(collate_training, pad_labels=None if recipe.crop_size else options.ignore_index)
        self.order: EpochBatches | None = None
        self.data: SegmentationDataset | SegmentationStream | None = None
        shared = {"seed": options.seed, "num_labels": num_labels, "max_corrupt": options.max_corrupt}
        if rows is None:
            return
        if self.streaming:
            self.data = SegmentationStream(
                rows, transform, **shared, shuffle_buffer=options.shuffle_buffer, **processes
            )
        else:
            self.data = SegmentationDataset(rows, transform, **shared)
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

    @property
    def steps_an_epoch(self) -> int:
        """Number of optimizer steps in an epoch, at least 1."""
        return max(1, self.an_epoch // self.accumulation)

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

    def after(self, step: int) -> Iterator[dict[str, Any]]:
        """Endless batches, beginning with the first one after ``step`` optimizer steps."""
        position = {"first_batch": step * self.accumulation, "num_workers": self.num_workers, "collate": self.collate}
        if self.order is None:
            return self.data.batches(self.size, **position)
        return training_batches(self.data, self.order, pin_memory=self.pin_memory, **position)


@dataclass(frozen=True)
class Inputs:
    """What a training reads.

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
) -> Inputs:
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
    return Inputs(batches, eval_data, looks)


class MeanLoss:
    """The mean loss of the steps since the last report, over all processes.

    Args:
        accelerator: the accelerator of the training.
        stored: the result of `gather` in an earlier run, which may have had another number of processes.
    """

    def __init__(self, accelerator: Accelerator, stored: dict[str, Any] | None = None):
        sums = [0.0] if stored is None else stored["sums"]
        mine = sums[accelerator.process_index] if len(sums) == accelerator.num_processes else sum(sums) / len(sums)
        self.accelerator, self.steps = accelerator, 0 if stored is None else stored["steps"]
        self.sum = torch.tensor(mine, device=accelerator.device)

    def add(self, loss: torch.Tensor) -> None:
        """Count the loss of a step, a scalar of this process."""
        self.sum, self.steps = self.sum + loss, self.steps + 1

    def take(self) -> float:
        """Return the mean and start anew; every process calls this after at least one step."""
        mean = float(self.accelerator.reduce(self.sum, reduction="mean")) / self.steps
        self.sum, self.steps = torch.zeros_like(self.sum), 0
        return mean

    def gather(self) -> dict[str, Any]:
        """The state for a checkpoint, the sum of each process and the number of steps; every process calls this."""
        return {"sums": self.accelerator.gather(self.sum[None]).tolist(), "steps": self.steps}
