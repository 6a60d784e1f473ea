"""Make a folder to train on from a released data set: pictures, and masks in the ids of the original's training."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from segzoo.data.preparation.needs import NEEDS
from segzoo.errors import SegZooError
from segzoo.progress import print_text
from segzoo.text import line_text

EPILOG = """
NAME is one of these; SOURCE holds the files of its release, which stay as they are:

{releases}

  segzoo data prepare potsdam downloads/Potsdam data/potsdam

A preparation that was killed goes on with the same command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo data prepare``."""
    width = max(map(len, NEEDS)) + 2
    lines = [f"  {name:{width}}{needs}" for name, needs in NEEDS.items()]
    parser.epilog = EPILOG.format(releases="\n".join(lines))
    parser.add_argument("name", metavar="NAME", help="data set, see below")
    parser.add_argument("source", metavar="SOURCE", help="folder with the release, or its only archive")
    parser.add_argument("target", metavar="TARGET", help="folder to make")
    parser.add_argument(
        "--list", nargs=0, action=_List, help="name the data sets, with their pages and files, and stop"
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that work; 0: none but this one (default: as many as cores, at most 8)",
    )


class _List(argparse.Action):
    """Prints a line for each data set, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from segzoo.data.facts import dataset_facts

        for name, needs in NEEDS.items():
            print_text(line_text(f"{name}: {dataset_facts(name).url}; files: {needs}"))
        parser.exit()


def run(args: argparse.Namespace) -> int:
    """Prepare the data set; returns 0.

    Raises:
        SegZooError: files are missing, or the target cannot be written.
    """
    if args.num_workers < 0:
        raise SegZooError(f"--num_workers is {args.num_workers}; it must be 0 or more")
    from segzoo.data.preparation import prepare
    from segzoo.evaluation.progress import EvaluationProgress

    lines: list[EvaluationProgress] = []
    counts = prepare(
        args.name,
        args.source,
        args.target,
        num_workers=args.num_workers,
        on_start=lambda count: lines.append(EvaluationProgress(count)),
        on_item=lambda: lines[0].image(),
        on_note=lambda text: print_text(line_text(f"note: {text}"), stream=sys.stderr),
    )
    for line in lines:
        line.finish_line()
    pictures = ", ".join(f"{count:,} for {part}" for part, count in counts.items())
    print_text(line_text(f"{args.target}: {pictures}"))
    return 0
