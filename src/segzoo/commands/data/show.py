"""Draw pictures with their masks on one sheet, as files or as a training sees them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.commands.data.arguments import (
    add_data_arguments,
    given_classes,
    indices,
    label_rule,
    names_and_colors,
    note,
    quiet,
    refuse_counts,
    rows_of_split,
)
from segzoo.data.options import source_from_options
from segzoo.errors import SegZooError
from segzoo.files import check_file_place
from segzoo.progress import print_text
from segzoo.text import line_text

if TYPE_CHECKING:
    import PIL.Image

    from segzoo.data.classes import ClassFacts
    from segzoo.training.recipes.recipe import Recipe

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EPILOG = """
  segzoo data show DATA --output sheet.png
  segzoo data show DATA --output trained.png --augment --crop_size 512 512 --epoch 0 1 2 --indices 3

With --augment, a sample is what a training of the same --seed and options gets of it in that epoch, pixel by pixel.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo data show``."""
    from segzoo.data.augmentation import Augmentation
    from segzoo.training.flags import add_flags

    add_data_arguments(parser)
    show = parser.add_argument_group("sheet")
    show.add_argument(
        "--output", metavar="FILE", required=True, help=f"picture to write ({', '.join(SHEET_SUFFIXES)})"
    )
    show.add_argument("--split", metavar="NAME", help="part of the data (default: train, else the first)")
    show.add_argument(
        "--count", type=int, default=6, metavar="N", help="show N pairs, spread evenly (default: %(default)s)"
    )
    show.add_argument("--indices", type=int, nargs="+", metavar="I", help="show these instead; the first pair is 0")
    show.add_argument("--alpha", type=float, default=0.55, help="share of the colours in the overlay, 0 to 1")
    show.add_argument("--cell_width", type=int, default=320, metavar="N", help="width of a picture on the sheet")

    training = parser.add_argument_group("as a training sees it")
    training.add_argument("--augment", action="store_true", help="show samples after augmentation")
    training.add_argument(
        "--seed", type=int, default=42, help="seed of the training (default: %(default)s, the training's own)"
    )
    training.add_argument("--epoch", type=int, nargs="+", default=[0], metavar="N", help="epochs to show (default: 0)")
    training.add_argument("--recipe", metavar="NAME", help="augmentation of a recipe; the options below override it")
    training.add_argument(
        "--image_processor_name",
        metavar="NAME",
        help="folder or Hub name of the model whose size and normalisation are used",
    )
    training.add_argument(
        "--train_val_split",
        type=float,
        default=0.15,
        metavar="F",
        help="share that a training sets aside where there is no validation part (default: %(default)s)",
    )
    training.add_argument(
        "--train_val_groups", metavar="REGEX", help="what pictures share that a training keeps on one side"
    )
    training.add_argument(
        "--augmentation",
        metavar="FILE",
        help="transforms of torchvision v2 or albumentations, as a training takes them",
    )
    add_flags(training, Augmentation)


def run(args: argparse.Namespace) -> int:
    """Draw the sheet; returns 0.

    Raises:
        SegZooError: options that make no sense, or data that cannot be loaded at all.
    """
    from segzoo.data.augmentation import Augmentation

    refuse_counts(args, positive=("count", "cell_width", "num_channels"), not_negative=("seed",))
    output = Path(args.output)
    if output.suffix.lower() not in SHEET_SUFFIXES:
        raise SegZooError(f"--output {output}: name a picture ({', '.join(SHEET_SUFFIXES)})")
    check_file_place(output, option="--output")
    if not 0 <= args.alpha <= 1:
        raise SegZooError(f"--alpha {args.alpha} is not between 0 and 1")
    if min(args.epoch) < 0:
        raise SegZooError("--epoch counts from 0")
    given = {name: value for name, value in vars(args).items() if name in Augmentation().to_dict()}
    if not args.augment and (
        given or args.augmentation or args.recipe or args.epoch != [0] or args.image_processor_name
    ):
        raise SegZooError(
            "--recipe, --epoch, --augmentation and the options of augmentation are for --augment, which is missing"
        )

    from segzoo.evaluation.pictures import titled
    from segzoo.files import write_whole

    quiet()
    classes = given_classes(args)
    sheet, title = _trained_sheet(args, classes, given) if args.augment else _file_sheet(args, classes)
    form = {".png": "PNG", ".webp": "WEBP"}.get(output.suffix.lower(), "JPEG")
    sheet = titled(sheet, title)
    write_whole(output, lambda file: sheet.save(file, format=form, quality=92))
    print_text(line_text(f"{output}: {title}"))
    return 0


def _file_sheet(args: argparse.Namespace, classes: ClassFacts | None) -> tuple[PIL.Image.Image, str]:
    """The sheet of pairs as they are in the files, and its title."""
    from segzoo.data.checks.inspection_text import short_name
    from segzoo.data.checks.sheets import draw_pairs

    split, rows = rows_of_split(args)
    names, palette = names_and_colors(args, classes)
    chosen = indices(args, len(rows), split)
    sheet = draw_pairs(
        rows,
        chosen,
        names=names,
        palette=palette,
        rule=label_rule(args, classes),
        short=partial(short_name, source=args.data),
        on_problem=note,
        alpha=args.alpha,
        cell_width=args.cell_width,
        num_channels=_channels(args, rows, chosen),
    )
    return sheet, f"{args.data}, {split}: {len(rows)} pairs, as they lie in the files"


def _trained_sheet(args: argparse.Namespace, classes: ClassFacts | None, given: dict) -> tuple[PIL.Image.Image, str]:
    """The sheet of samples as a training gets them, and its title."""
    from segzoo.data import SegmentationDataset
    from segzoo.data.checks.inspection_text import short_name
    from segzoo.data.checks.sheets import draw_samples_as_trained
    from segzoo.data.classes import ClassFacts
    from segzoo.data.splits import load_splits
    from segzoo.training.arguments import pipeline_fields
    from segzoo.training.models import build_processor, new_processor, no_distortion, training_transform
    from segzoo.training.options import DEFAULTS
    from segzoo.training.recipes.recipe import resolve_recipe

    given = given | pipeline_fields(args.augmentation, given)
    recipe = resolve_recipe(args.recipe, None, given, defaults=DEFAULTS)
    if args.split in (None, "train"):
        split = "train"
        rows, _ = load_splits(
            source_from_options(args),
            train_val_split=args.train_val_split,
            train_val_groups=args.train_val_groups,
            seed=args.seed,
        )
        if rows is None:
            raise SegZooError(f"{args.data} has no train split; name another one with --split")
    else:
        split, rows = rows_of_split(args)
    chosen = indices(args, len(rows), split)
    if args.image_processor_name is not None:
        known = classes or ClassFacts({}, [], bool(args.do_reduce_labels))
        processor = build_processor(None, known, image_processor_name=args.image_processor_name)
        num_channels = getattr(processor, "num_channels", 3)
        if args.num_channels not in (None, num_channels):
            raise SegZooError(
                f"--num_channels {args.num_channels}: the image processor of {args.image_processor_name} reads pictures of "
                f"{num_channels} channels; leave --num_channels out"
            )
    else:
        reduce_labels = label_rule(args, classes).reduce_labels
        num_channels = _channels(args, rows, chosen)
        processor = new_processor(num_channels, do_reduce_labels=reduce_labels)
    if num_channels != 3 and recipe.photometric_distortion:
        recipe = recipe.for_channels(num_channels)
        note(no_distortion(num_channels))
    transform = training_transform(processor, recipe.augmentation, ignore_index=args.ignore_index)
    names, palette = names_and_colors(args, classes)
    sheet = draw_samples_as_trained(
        SegmentationDataset(rows, transform, seed=args.seed),
        chosen,
        names=names,
        palette=palette,
        epochs=args.epoch,
        short=partial(short_name, source=args.data),
        on_problem=note,
        alpha=args.alpha,
        cell_width=args.cell_width,
    )
    return (
        sheet,
        f"{args.data}, {split}: {len(rows)} pairs, as a training sees them; {_in_words(recipe)}; seed {args.seed}",
    )


def _channels(args: argparse.Namespace, rows: Any, chosen: Sequence[int]) -> int:
    """The channels that pictures are read with: those that are asked for, or as the first one has them."""
    from segzoo.data.checks.probing import usual_channels
    from segzoo.data.rows import undecoded

    return args.num_channels or (usual_channels(undecoded(rows)[chosen[0]]["image"]) if chosen else 3)


def _in_words(recipe: Recipe) -> str:
    """The augmentation of a recipe in words, for the sheet's title."""
    size = "whole pictures"
    if recipe.crop_size is not None:
        size = f"crops of {recipe.crop_size[1]}x{recipe.crop_size[0]} (width x height)"
    if recipe.pipeline is not None:
        from segzoo.data.augmentation import pipeline_names

        return f"{', '.join(pipeline_names(recipe.pipeline))}, then {size}"
    low, high = recipe.scale_range
    photometric = "with" if recipe.photometric_distortion else "without"
    return (
        f"{size}, scaled by {low:g} to {high:g}, mirrored with probability {recipe.flip_probability:g}, "
        f"{photometric} photometric distortion"
    )
