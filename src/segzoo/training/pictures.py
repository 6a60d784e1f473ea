"""The rows of a training's data, their classes, and how often each class is in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from segzoo.data import DataSource
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.classes import ClassFacts, find_classes
from segzoo.data.mixture import mixture_facts
from segzoo.data.row_counts import RowCounts, count_rows
from segzoo.data.rows import row_names, undecoded
from segzoo.data.splits import load_splits
from segzoo.errors import SegZooError
from segzoo.evaluation.fingerprints import rows_fingerprint
from segzoo.training.models import load_config
from segzoo.training.options import RunOptions
from segzoo.training.processes import run_together
from segzoo.training.recipes.recipe import Recipe


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
