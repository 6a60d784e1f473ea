"""What the actions of ``segzoo data`` share: arguments, classes and rows of the data."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from segzoo.data.options import add_data_options, check_data_options, source_from_options
from segzoo.errors import SegZooError
from segzoo.progress import print_text
from segzoo.text import line_text

if TYPE_CHECKING:
    from datasets import Dataset

    from segzoo.data.checks.label_ids import LabelRule
    from segzoo.data.classes import ClassFacts


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data set's place and the options that say how it is read."""
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


def refuse_counts(args: argparse.Namespace, *, positive: tuple[str, ...], not_negative: tuple[str, ...]) -> None:
    """Check the numbers that options of these names hold, and the options of the classes.

    Raises:
        SegZooError: a number is too small, or --classes and --num_labels contradict each other.
    """
    for name in (*positive, *not_negative):
        value = getattr(args, name)
        if value is not None and value < (1 if name in positive else 0):
            raise SegZooError(f"--{name} is {value}; it must be {'1' if name in positive else '0'} or more")
    check_data_options(args)


def quiet() -> None:
    """Turn off the progress bars of `datasets`; segzoo has its own."""
    import datasets

    datasets.disable_progress_bars()


def given_classes(args: argparse.Namespace) -> ClassFacts | None:
    """The classes that the options name or that are known for the data; None if there are neither."""
    from segzoo.data import load_id2label
    from segzoo.data.classes import find_classes

    names = args.classes or (None if args.num_labels else args.palette)
    if names is None and args.num_labels is None and load_id2label(args.data) is None:
        return None
    return find_classes(args.data, classes=names, num_labels=args.num_labels, reduce_labels=args.do_reduce_labels)


def names_and_colors(args: argparse.Namespace, classes: ClassFacts | None) -> tuple[list[str], list[list[int]]]:
    """Class names and colours by id; without known classes, the ids themselves and a default palette."""
    from segzoo.images.drawing import default_palette

    if classes is not None:
        return classes.names, classes.palette
    first = 1 if args.do_reduce_labels else 0
    return [f"id {index + first}" for index in range(256)], default_palette(256)


def label_rule(args: argparse.Namespace, classes: ClassFacts | None) -> LabelRule:
    """The rule for the ids in the masks, from the classes if they are known, else from the options."""
    from segzoo.data.checks.label_ids import LabelRule

    if classes is None:
        return LabelRule(None, args.ignore_index, bool(args.do_reduce_labels))
    return LabelRule(len(classes.names), args.ignore_index, classes.reduce_labels)


def rows_of_split(args: argparse.Namespace) -> tuple[str, Dataset]:
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


def indices(args: argparse.Namespace, count: int, split: str) -> list[int]:
    """The pairs to show: those of ``--indices``, or ``--count`` spread evenly over ``count``.

    Raises:
        SegZooError: there is no such pair.
    """
    from segzoo.data.checks.inspection import spread

    if args.indices is None:
        return spread(count, args.count)
    wrong = next((index for index in args.indices if not 0 <= index < count), None)
    if wrong is not None:
        raise SegZooError(f"--indices {wrong}: the {split} split has the pairs 0 to {count - 1}")
    return args.indices


def note(text: str) -> None:
    """Print a line that is no error to stderr."""
    print_text(line_text(f"note: {text}"), stream=sys.stderr)
