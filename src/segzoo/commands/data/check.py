"""Find what is wrong with pictures, masks and labels, and count the classes."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from segzoo.commands.data.arguments import add_data_arguments, given_classes, label_rule, quiet, refuse_counts
from segzoo.data.options import source_from_options
from segzoo.errors import SegZooError
from segzoo.files import check_file_place
from segzoo.progress import print_text
from segzoo.text import line_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from segzoo.evaluation.progress import EvaluationProgress

EPILOG = """
exit status: 0 where nothing is wrong, 1 where something is (see --fail_on). Notes never count: they report what is handled.

  segzoo data check DATA --classes camvid
  segzoo data check DATA --num_labels 5 --crop_size 512 512 --json report.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo data check``."""
    add_data_arguments(parser)
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


def run(args: argparse.Namespace) -> int:
    """Print and write the report; returns 1 where something is wrong.

    Raises:
        SegZooError: options that make no sense, or data that cannot be loaded at all.
    """
    refuse_counts(args, positive=("max_samples", "num_channels"), not_negative=("num_workers", "list"))
    if args.json not in (None, "-"):
        check_file_place(args.json, option="--json")
    crop_size = None if args.crop_size is None else tuple(args.crop_size * (3 - len(args.crop_size)))[:2]
    if args.crop_size is not None and (len(args.crop_size) > 2 or min(args.crop_size) < 1):
        raise SegZooError(f"--crop_size is {' '.join(map(str, args.crop_size))}; give height and width in pixels")

    from segzoo.data.checks.inspection import inspect_dataset
    from segzoo.data.checks.inspection_text import report_text
    from segzoo.evaluation.progress import EvaluationProgress
    from segzoo.files import json_text, write_whole
    from segzoo.memory import keep_freed_memory

    quiet()
    keep_freed_memory()  # every picture is about as large as the one before it
    classes = given_classes(args)
    lines: list[EvaluationProgress] = []

    def progress(count: int) -> Callable[[], object]:
        lines.append(EvaluationProgress(count))
        return lines[0].image

    report = inspect_dataset(
        source_from_options(args),
        label_rule(args, classes),
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
