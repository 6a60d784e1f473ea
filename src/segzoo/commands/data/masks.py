"""Make masks from outlines (COCO, YOLO, LabelMe) or from colours of a palette."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.errors import SegZooError
from segzoo.progress import print_text
from segzoo.text import line_text, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from segzoo.data.annotations.annotated import Format
    from segzoo.data.annotations.masks import MaskReport
    from segzoo.evaluation.progress import EvaluationProgress

FORMATS = ("auto", "coco", "yolo", "labelme", "colours")
EPILOG = """
TARGET gets images/{split}, annotations/{split} and id2label.json, and is then what every other command reads. A killed run goes
on where it stopped. CVAT and Label Studio export COCO; CVAT's 'Segmentation mask 1.1' is read with its own labelmap.txt.
Objects are painted in the order of the file: where two overlap, the later one is on top (of COCO, crowd regions first).
exit status: 0 where everything was drawn, 1 where something was left out, which is then counted and named.

  segzoo data masks EXPORT TARGET
  segzoo data masks EXPORT TARGET --classes road roof tree --unlabelled ignore
  segzoo data masks DATA TARGET --palette colours.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo data masks``."""
    parser.add_argument("source", metavar="SOURCE", help="folder or zip archive with pictures and annotations")
    parser.add_argument("target", metavar="TARGET", help="folder to write")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="format of SOURCE (default: %(default)s)")
    parser.add_argument(
        "--palette",
        metavar="FILE",
        help="for masks of colours: the name and colour of each class, as JSON, CSV or TXT (labelmap.txt is found)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names that become the ids in this order, or a JSON file of names (default: all, in the order of SOURCE)",
    )
    parser.add_argument(
        "--ignored", nargs="+", default=[], metavar="NAME", help="names of SOURCE whose pixels do not count"
    )
    unlabelled = parser.add_mutually_exclusive_group()
    unlabelled.add_argument(
        "--background",
        metavar="NAME",
        help="class of all that is not annotated, id 0 (default for outlines: background)",
    )
    unlabelled.add_argument(
        "--unlabelled",
        choices=("ignore",),
        help="what is not annotated does not count (default for masks of colours)",
    )
    parser.add_argument("--link", action="store_true", help="link to the pictures instead of copying them")
    parser.add_argument(
        "--list", type=int, default=5, metavar="N", help="name N cases of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--image_suffix", metavar="TEXT", default="", help="for masks of colours: end of pictures' names"
    )
    parser.add_argument("--label_suffix", metavar="TEXT", default="", help="for masks of colours: end of masks' names")


def run(args: argparse.Namespace) -> int:
    """Write the masks; returns 1 where something was left out.

    Raises:
        SegZooError: options that make no sense, or a source that cannot be read at all.
    """
    from segzoo.data.annotations.masks import MaskSettings, write_masks
    from segzoo.evaluation.progress import EvaluationProgress

    if args.list < 0:
        raise SegZooError(f"--list {args.list}: must be 0 or more")
    kind, form = _format(args)
    background = args.background
    if background is None and args.unlabelled is None and kind != "colours":
        background = "background"
    settings = MaskSettings(
        classes=_classes(args.classes), ignored=tuple(args.ignored), background=background, link=args.link
    )
    lines: list[EvaluationProgress] = []

    def progress(count: int, done: int) -> Callable[[], object]:
        lines.append(EvaluationProgress(count, num_done=done))
        return lines[0].image

    report = write_masks(form, args.source, args.target, settings, kind=kind, progress=progress)
    for line in lines:
        line.finish_line()
    _tell(args, report)
    return int(report.left_out > 0)


def _format(args: argparse.Namespace) -> tuple[str, Format]:
    """Name and reader of the format: the one that is asked for, or the one that is recognised."""
    from segzoo.data.annotations.colours import LABEL_MAP, ColourFormat
    from segzoo.data.annotations.recognition import ELSEWHERE, recognise
    from segzoo.data.data_source import DataSource
    from segzoo.data.folders import open_folder
    from segzoo.data.palettes import parse_palette, read_palette

    source = Path(args.source).expanduser()
    if not source.exists():
        raise SegZooError(f"{source}: there is no such folder or zip archive")
    if source.is_file() and source.suffix.lower() != ".zip":
        raise SegZooError(f"{source} is a file; name the folder that holds it and the pictures, or a zip archive")
    kind = args.format
    folder = open_folder(source)
    palette = None if args.palette is None else read_palette(args.palette)
    if palette is None and kind in ("auto", "colours") and LABEL_MAP in folder.files:
        palette = parse_palette(folder.read_text(LABEL_MAP), f"{source}/{LABEL_MAP}")
    if palette is not None:
        if kind not in ("auto", "colours"):
            raise SegZooError(f"--palette is for masks of colours, not for --format {kind}; leave one out")
        data = DataSource(source, image_suffix=args.image_suffix, label_suffix=args.label_suffix)
        return "colours", ColourFormat(palette, data)
    if kind == "colours":
        raise SegZooError(
            "--format colours: masks of colours need --palette FILE with the name and colour of each class"
        )
    if kind == "auto":
        found = recognise(folder) or recognise(folder, whole=True)
        if found is None:
            raise SegZooError(
                f"{source} holds no annotations of COCO, YOLO or LabelMe; name their --format, or for masks of colours a "
                "--palette. Folders of masks of class ids need no such step"
            )
        if found.format in ELSEWHERE:
            raise SegZooError(f"{source} holds {found.words}; {found.fix}")
        kind = found.format
    return kind, _outline_format(kind)


def _outline_format(kind: str) -> Format:
    if kind == "coco":
        from segzoo.data.annotations.coco import CocoFormat

        return CocoFormat()
    if kind == "labelme":
        from segzoo.data.annotations.labelme import LabelMeFormat

        return LabelMeFormat()
    from segzoo.data.annotations.yolo import YoloFormat

    return YoloFormat()


def _classes(given: list[str] | None) -> tuple[str, ...] | None:
    """The names of ``--classes``: as they are given, or those of a JSON file."""
    if given is None or len(given) > 1 or not given[0].endswith(".json"):
        return None if given is None else tuple(given)
    from segzoo.data.classes import find_classes

    return tuple(find_classes(".", classes=given[0]).names)


def _tell(args: argparse.Namespace, report: MaskReport) -> None:
    """Print what was written, and what was not."""
    from segzoo.data.annotations.annotated import NOTES, PROBLEMS

    total = sum(report.pixels.values()) or 1
    parts = ", ".join(f"{split} {count}" for split, count in report.written.items()) or "no picture"
    earlier = f" ({report.earlier} done before)" if report.earlier else ""
    print_text(line_text(f"{args.target}: {parts}{earlier}; {len(report.names)} classes"))
    rows = [*enumerate(report.names), (report.ignore_index, "(does not count)")]
    for index, name in rows:
        print_text(line_text(f"  {index:3d}  {name:24s} {report.pixels[index] / total:7.2%} of the pixels"))
    if report.ignore_index != 255:
        print_text(f"more than 255 classes: train and evaluate with --ignore_index {report.ignore_index}")
    for kinds, title in ((PROBLEMS, "left out"), (NOTES, "note")):
        for kind, words in kinds.items():
            texts = report.cases.get(kind, [])
            if texts:
                named = f": {listed(texts, args.list)}" if args.list else ""
                print_text(line_text(f"{title}: {len(texts)} x {words}{named}"), stream=sys.stderr)
