"""Check a data set for everything that breaks a training, and look at its pictures."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.data.options import add_data_options, check_data_options, source_from_options
from segzoo.errors import SegZooError
from segzoo.files import check_file_place
from segzoo.progress import print_text
from segzoo.text import line_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import PIL.Image
    from datasets import Dataset

    from segzoo.data.checks.label_ids import LabelRule
    from segzoo.data.classes import ClassFacts
    from segzoo.training.recipes.recipe import Recipe

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

CHECK_EPILOG = """
exit status: 0 where nothing is wrong, 1 where something is (see --fail_on). Notes never count: they report what is handled.

  segzoo data check DATA --classes camvid
  segzoo data check DATA --num_labels 5 --crop_size 512 512 --json report.json
"""
SHOW_EPILOG = """
  segzoo data show DATA --output sheet.png
  segzoo data show DATA --output trained.png --augment --crop_size 512 512 --epoch 0 1 2 --indices 3

With --augment, a sample is what a training of the same --seed and options gets of it in that epoch, pixel by pixel.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo data check`` and ``segzoo data show``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text, epilog, add in (
        (
            "check",
            "find what is wrong with pictures, masks and labels, and count the classes",
            CHECK_EPILOG,
            _add_check,
        ),
        (
            "show",
            "draw pictures with their masks on one sheet, as files or as a training sees them",
            SHOW_EPILOG,
            _add_show,
        ),
    ):
        action = actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_data(action)
        add(action)
        action.add_argument("--traceback", action="store_true", help="show where in the code an error arose")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="PATH",
        help="folder with images/ and annotations/, another known layout, or name of a data set",
    )
    data = parser.add_argument_group("data")
    add_data_options(data)
    data.add_argument(
        "--num_channels",
        type=int,
        metavar="N",
        help="channels that the model takes (default: pictures are for RGB models)",
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    check = parser.add_argument_group("check")
    check.add_argument("--split", nargs="+", metavar="NAME", help="check these parts alone (default: all)")
    check.add_argument(
        "--max_samples", type=int, metavar="N", help="check N pairs of each part, spread evenly over it"
    )
    check.add_argument(
        "--crop_size",
        type=int,
        nargs="+",
        metavar="N",
        help="height and width of training crops: smaller pictures are reported",
    )
    check.add_argument(
        "--num_workers", type=int, metavar="N", help="processes that read files (default: as many as cores, at most 8)"
    )
    check.add_argument("--json", metavar="FILE", help="write the report as JSON; - is standard output")
    check.add_argument(
        "--fail_on",
        choices=("error", "warning", "never"),
        default="error",
        help="least severity for exit status 1 (default: %(default)s)",
    )
    check.add_argument(
        "--list", type=int, default=5, metavar="N", help="print N cases of each finding (default: %(default)s)"
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    from segzoo.data.augmentation import Augmentation
    from segzoo.training.flags import add_flags

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
    add_flags(training, Augmentation)


def run(args: argparse.Namespace) -> int:
    """Run ``data check`` or ``data show``; returns the exit status.

    Raises:
        SegZooError: options that make no sense, or data that cannot be loaded at all.
    """
    return check(args) if args.action == "check" else show(args)


# Checking


def check(args: argparse.Namespace) -> int:
    """Prints and writes the report; 1 where something is wrong."""
    _refuse(args, positive=("max_samples", "num_channels"), not_negative=("num_workers", "list"))
    if args.json not in (None, "-"):
        check_file_place(args.json, option="--json")
    crop_size = None if args.crop_size is None else tuple(args.crop_size * (3 - len(args.crop_size)))[:2]
    if args.crop_size is not None and (len(args.crop_size) > 2 or min(args.crop_size) < 1):
        raise SegZooError(f"--crop_size is {' '.join(map(str, args.crop_size))}; give height and width in pixels")

    from segzoo.data.checks.inspection import inspect_dataset
    from segzoo.data.checks.inspection_text import report_text
    from segzoo.evaluation.progress import EvaluationProgress
    from segzoo.files import json_text, write_whole

    _quiet()
    classes = _classes(args)
    lines: list[EvaluationProgress] = []

    def progress(count: int) -> Callable[[], object]:
        lines.append(EvaluationProgress(count))
        return lines[0].image

    report = inspect_dataset(
        source_from_options(args),
        _rule(args, classes),
        classes=classes,
        splits=args.split,
        crop_size=crop_size,
        num_channels=args.num_channels,
        max_samples=args.max_samples,
        num_workers=min(8, os.cpu_count() or 1) if args.num_workers is None else args.num_workers,
        progress=progress,
    )
    for line in lines:
        line.finish_line()
    print_text(report_text(report, most_cases=args.list), stream=sys.stderr if args.json == "-" else sys.stdout)
    if args.json == "-":
        print_text(json_text(report.to_dict()), end="")
    elif args.json:
        write_whole(args.json, json_text(report.to_dict()))
        print_text(line_text(f"report: {args.json}"))
    counted = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[args.fail_on]
    return int(any(report.count(severity) for severity in counted))


# Showing


def show(args: argparse.Namespace) -> int:
    """Draw the sheet of ``data show``; returns 0."""
    from segzoo.data.augmentation import Augmentation

    _refuse(args, positive=("count", "cell_width", "num_channels"), not_negative=("seed",))
    output = Path(args.output)
    if output.suffix.lower() not in SHEET_SUFFIXES:
        raise SegZooError(f"--output {output}: name a picture ({', '.join(SHEET_SUFFIXES)})")
    check_file_place(output, option="--output")
    if not 0 <= args.alpha <= 1:
        raise SegZooError(f"--alpha {args.alpha} is not between 0 and 1")
    if min(args.epoch) < 0:
        raise SegZooError("--epoch counts from 0")
    given = {name: value for name, value in vars(args).items() if name in Augmentation().to_dict()}
    if not args.augment and (given or args.recipe or args.epoch != [0] or args.image_processor_name):
        raise SegZooError("--recipe, --epoch and the options of augmentation are for --augment, which is missing")

    from segzoo.evaluation.pictures import titled
    from segzoo.files import write_whole

    _quiet()
    classes = _classes(args)
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

    split, rows = _rows_of_split(args)
    names, palette = _names_and_colors(args, classes)
    sheet = draw_pairs(
        rows,
        _indices(args, len(rows), split),
        names=names,
        palette=palette,
        rule=_rule(args, classes),
        short=partial(short_name, source=args.data),
        on_problem=_note,
        alpha=args.alpha,
        cell_width=args.cell_width,
        num_channels=args.num_channels or 3,
    )
    return sheet, f"{args.data}, {split}: {len(rows)} pairs, as they lie in the files"


def _trained_sheet(args: argparse.Namespace, classes: ClassFacts | None, given: dict) -> tuple[PIL.Image.Image, str]:
    """The sheet of samples as a training gets them, and its title."""
    from segzoo.data import SegmentationDataset
    from segzoo.data.checks.inspection_text import short_name
    from segzoo.data.checks.sheets import draw_samples_as_trained
    from segzoo.data.classes import ClassFacts
    from segzoo.data.splits import load_splits
    from segzoo.training.arguments import DEFAULTS
    from segzoo.training.models import build_processor, new_processor, no_distortion, training_transform
    from segzoo.training.recipes.recipe import resolve_recipe

    recipe = resolve_recipe(args.recipe, None, given, defaults=DEFAULTS)
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
        reduce_labels = _rule(args, classes).reduce_labels
        num_channels = args.num_channels or 3
        processor = new_processor(num_channels, do_reduce_labels=reduce_labels)
    if num_channels != 3 and recipe.photometric_distortion:
        recipe = recipe.for_channels(num_channels)
        _note(no_distortion(num_channels))
    transform = training_transform(processor, recipe.augmentation, ignore_index=args.ignore_index)
    if args.split in (None, "train"):
        split = "train"
        rows, _ = load_splits(source_from_options(args), train_val_split=args.train_val_split, seed=args.seed)
        if rows is None:
            raise SegZooError(f"{args.data} has no train split; name another one with --split")
    else:
        split, rows = _rows_of_split(args)
    names, palette = _names_and_colors(args, classes)
    sheet = draw_samples_as_trained(
        SegmentationDataset(rows, transform, seed=args.seed),
        _indices(args, len(rows), split),
        names=names,
        palette=palette,
        epochs=args.epoch,
        short=partial(short_name, source=args.data),
        on_problem=_note,
        alpha=args.alpha,
        cell_width=args.cell_width,
    )
    return (
        sheet,
        f"{args.data}, {split}: {len(rows)} pairs, as a training sees them; {_in_words(recipe)}; seed {args.seed}",
    )


def _in_words(recipe: Recipe) -> str:
    """The augmentation of a recipe in words, for the sheet's title."""
    size = "whole pictures"
    if recipe.crop_size is not None:
        size = f"crops of {recipe.crop_size[1]}x{recipe.crop_size[0]} (width x height)"
    low, high = recipe.scale_range
    photometric = "with" if recipe.photometric_distortion else "without"
    return (
        f"{size}, scaled by {low:g} to {high:g}, mirrored with probability {recipe.flip_probability:g}, "
        f"{photometric} photometric distortion"
    )


# What both need


def _refuse(args: argparse.Namespace, *, positive: tuple[str, ...], not_negative: tuple[str, ...]) -> None:
    for name in (*positive, *not_negative):
        value = getattr(args, name)
        if value is not None and value < (1 if name in positive else 0):
            raise SegZooError(f"--{name} is {value}; it must be {'1' if name in positive else '0'} or more")
    check_data_options(args)


def _quiet() -> None:
    import datasets

    datasets.disable_progress_bars()


def _classes(args: argparse.Namespace) -> ClassFacts | None:
    """The classes that the options name or that are known for the data; None if there are neither."""
    from segzoo.data import load_id2label
    from segzoo.data.classes import find_classes

    if args.classes is None and args.num_labels is None and load_id2label(args.data) is None:
        return None
    return find_classes(
        args.data, classes=args.classes, num_labels=args.num_labels, reduce_labels=args.do_reduce_labels
    )


def _names_and_colors(args: argparse.Namespace, classes: ClassFacts | None) -> tuple[list[str], list[list[int]]]:
    from segzoo.images.drawing import default_palette

    if classes is not None:
        return classes.names, classes.palette
    first = 1 if args.do_reduce_labels else 0
    return [f"id {index + first}" for index in range(256)], default_palette(256)


def _rule(args: argparse.Namespace, classes: ClassFacts | None) -> LabelRule:
    """The rule for the ids in the masks, from the classes if they are known, else from the options."""
    from segzoo.data.checks.label_ids import LabelRule

    if classes is None:
        return LabelRule(None, args.ignore_index, bool(args.do_reduce_labels))
    return LabelRule(len(classes.names), args.ignore_index, classes.reduce_labels)


def _rows_of_split(args: argparse.Namespace) -> tuple[str, Dataset]:
    """Name and rows of the split to show; files that do not form pairs are left to ``segzoo data check``."""
    from segzoo.data.checks.inspection import choose_splits, load_tables

    source = source_from_options(args)
    tables = load_tables(source, on_case=lambda case: None)
    if not tables:
        raise SegZooError(f"{args.data} has no pair to show; `segzoo data check` says why")
    if args.split is not None:
        tables = choose_splits(tables, [args.split], source)
    split = "train" if "train" in tables else next(iter(tables))
    return split, tables[split]


def _indices(args: argparse.Namespace, count: int, split: str) -> list[int]:
    from segzoo.data.checks.inspection import spread

    if args.indices is None:
        return spread(count, args.count)
    wrong = next((index for index in args.indices if not 0 <= index < count), None)
    if wrong is not None:
        raise SegZooError(f"--indices {wrong}: the {split} split has the pairs 0 to {count - 1}")
    return args.indices


def _note(text: str) -> None:
    print_text(line_text(f"note: {text}"), stream=sys.stderr)
