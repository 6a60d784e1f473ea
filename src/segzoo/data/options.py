"""The command-line options for the location of data, how they are read, and their classes."""

from __future__ import annotations

import argparse

from segzoo.data.data_source import DataSource
from segzoo.errors import SegZooError


def add_data_options(group: argparse._ArgumentGroup) -> None:
    """Add options for the fields of `DataSource`, except those that each command has itself, and for the classes."""
    group.add_argument(
        "--classes",
        metavar="NAME|FILE",
        help="the data's classes: a known data set such as camvid, or a JSON of names",
    )
    group.add_argument(
        "--num_labels", type=int, metavar="N", help="the data's number of classes, where they have no names"
    )
    group.add_argument(
        "--do_reduce_labels",
        action=argparse.BooleanOptionalAction,
        help="masks hold 0 for 'no class' and 1..N; left out, as is known of the data, else of the model",
    )
    group.add_argument(
        "--ignore_index", type=int, default=255, help="label that does not count (default: %(default)s)"
    )
    group.add_argument("--dataset_config_name", metavar="NAME", help="configuration of a data set on the Hub")
    group.add_argument("--image_column", metavar="NAME", help="column of the pictures, where it is not found")
    group.add_argument("--label_column", metavar="NAME", help="column of the masks, where it is not found")
    group.add_argument(
        "--image_suffix", metavar="TEXT", default="", help="what pictures' names end in, such as _leftImg8bit"
    )
    group.add_argument(
        "--label_suffix", metavar="TEXT", default="", help="what masks' names end in, such as _gtFine_labelTrainIds"
    )
    group.add_argument(
        "--palette", metavar="FILE", help="masks are painted in these colours: name, r, g, b as JSON, CSV or TXT"
    )
    group.add_argument("--tile", type=int, metavar="N", help="read large TIFF files by windows of NxN pixels")
    group.add_argument("--tile_stride", type=int, metavar="N", help="pixels from window to window (default: --tile)")
    group.add_argument("--data_root", metavar="DIR", help="folder that the paths in .odgt lists begin at")
    group.add_argument("--cache_dir", metavar="DIR", help="where downloads are kept")


def check_data_options(args: argparse.Namespace) -> None:
    """Check the options that name the classes, before anything is loaded.

    Raises:
        SegZooError: the number of classes is below 1, or is given together with their names.
    """
    if args.num_labels is not None and args.num_labels < 1:
        raise SegZooError(f"--num_labels is {args.num_labels}; it must be 1 or more")
    if args.classes is not None and args.num_labels is not None:
        raise SegZooError("--classes names the classes and so their number; leave out --num_labels")


def source_from_options(args: argparse.Namespace) -> DataSource:
    """The `DataSource` that ``args.data`` and the options of `add_data_options` describe."""
    return DataSource(
        args.data,
        config_name=args.dataset_config_name,
        image_column=args.image_column,
        label_column=args.label_column,
        image_suffix=args.image_suffix,
        label_suffix=args.label_suffix,
        palette=args.palette,
        tile=args.tile,
        tile_stride=args.tile_stride,
        data_root=args.data_root,
        cache_dir=args.cache_dir,
    )
