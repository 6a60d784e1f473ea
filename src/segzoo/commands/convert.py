"""Turn an original checkpoint into a model folder that transformers loads."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from segzoo.conversion.errors import ConversionError

REPORT_NAME = "conversion_report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``segzoo convert``."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file as the original code wrote it")
    parser.add_argument("decoder", metavar="DECODER", nargs="?", help="second file of a model published in two")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder to make; it may exist if it is empty")
    parser.add_argument("--config", metavar="FILE", help="original training config, read and never executed")
    parser.add_argument("--name", metavar="ZOO_NAME", help="name of the released checkpoint (see segzoo list)")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights where the file has them")
    parser.add_argument(
        "--report",
        metavar="FILE",
        nargs="?",
        const=True,
        help=f"write what went where: JSON, or markdown for a .md name; DIR/{REPORT_NAME} without a name",
    )
    parser.add_argument("--push_to_hub", metavar="REPO", help="upload the folder to the Hugging Face Hub afterwards")
    parser.add_argument("--private", action="store_true", help="make the repository on the Hub private")


def run(args: argparse.Namespace) -> int:
    """Converts, reports and uploads; returns the exit status.

    Raises:
        SegZooError: the conversion or the upload failed; the message is for the user.
    """
    from transformers.utils import logging

    from segzoo.conversion.convert import convert_checkpoint

    if args.private and not args.push_to_hub:
        raise ConversionError("--private is for --push_to_hub REPO, which is missing")
    if args.push_to_hub and holds_conversion_of(args.checkpoint, args.output):
        print(f"{args.output}: holds the conversion of this file already")
        _push(args)
        return 0
    logging.disable_progress_bar()
    done = convert_checkpoint(
        args.checkpoint,
        args.decoder,
        output=args.output,
        config=args.config,
        name=args.name,
        ema=args.ema,
    )
    report = done.report
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    parts = " + ".join(original for original, _ in report.components)
    print(f"{done.folder}: {parts}, {report.parameters / 1e6:.1f}M weights; config from {report.config_source}")
    if args.report:
        path = Path(done.folder) / REPORT_NAME if args.report is True else Path(args.report)
        print(f"report: {report.write(path)}")
    if args.push_to_hub:
        _push(args)
    return 0


def _push(args: argparse.Namespace) -> None:
    from segzoo.hub import push_folder

    print(f"pushed: {push_folder(args.output, args.push_to_hub, private=args.private)}")


def holds_conversion_of(checkpoint: str | Path, folder: str | Path) -> bool:
    """Whether a folder is the whole result of converting this very file: then a broken-off push goes on from there."""
    card = Path(folder) / "README.md"
    if not card.is_file() or not (Path(folder) / "config.json").is_file() or not Path(checkpoint).is_file():
        return False
    with open(checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest in card.read_text(encoding="utf-8")
