"""Turn an original checkpoint, or a released one by name, into a Hugging Face model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segzoo import zoo
from segzoo.conversion.errors import CheckpointError, ConversionError
from segzoo.conversion.sources import downloaded, explain_missing, find_files
from segzoo.images.web import is_web_address
from segzoo.progress import print_text
from segzoo.text import line_text

REPORT_NAME = "conversion_report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo convert``."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="file as the original code wrote it; or a folder with transformers' SegFormer, its UPerNet with a Swin or "
        "ConvNeXt, or its Mask2Former or MaskFormer with a Swin or ResNet; or the name of a released checkpoint (see segzoo list) or an address (https://...), which is downloaded",
    )
    parser.add_argument("decoder", metavar="DECODER", nargs="?", help="second file of a model published in two")
    parser.add_argument("--output", metavar="DIR", help="folder to make; it may exist if it is empty")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="write nothing, but say whether it converts, to what, and with which remarks; --config alone suffices",
    )
    parser.add_argument("--config", metavar="FILE", help="original training config, read and never executed")
    parser.add_argument("--name", metavar="ZOO_NAME", help="name of the released checkpoint (see segzoo list)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="where downloads are kept (default: in the Hugging Face cache)"
    )
    parser.add_argument("--ema", action="store_true", help="take the averaged weights where the file has them")
    parser.add_argument(
        "--weights", choices=("student", "teacher"), help="which model to take, where the file holds both"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE|A,B,C",
        help="names of the classes: JSON with id2label, a text file with one in each line, or a list with commas",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        nargs="?",
        const=True,
        help=f"write what went where: JSON, or markdown for a .md name; DIR/{REPORT_NAME} without a name",
    )
    parser.add_argument(
        "--to_transformers",
        action="store_true",
        help="CHECKPOINT is a folder of segzoo, which is written as one of transformers (SegFormer, UPerNet with "
        "a Swin or ConvNeXt, Mask2Former or MaskFormer with a Swin or ResNet)",
    )
    parser.add_argument("--push_to_hub", metavar="REPO", help="upload the folder to the Hugging Face Hub afterwards")
    parser.add_argument("--private", action="store_true", help="make the repository on the Hub private")


def run(args: argparse.Namespace) -> int:
    """Convert a checkpoint, write its report, and upload the result, as the arguments say; returns 0.

    Raises:
        SegZooError: the download, the conversion or the upload failed; in a dry run, that it would not convert.
    """
    from transformers.utils import logging

    from segzoo.conversion.convert import convert_checkpoint

    if args.private and not args.push_to_hub:
        raise ConversionError("--private is for --push_to_hub REPO, which is missing")
    if args.dry_run:
        for option in ("output", "report", "push_to_hub"):
            if getattr(args, option):
                raise ConversionError(f"--dry_run writes nothing; leave --{option} out, or --dry_run")
        return _describe(args)
    if args.checkpoint is None or args.output is None:
        raise ConversionError("a conversion needs CHECKPOINT and --output DIR (--dry_run --config FILE needs neither)")
    if args.to_transformers:
        return _to_transformers(args)
    from segzoo.conversion.labels import read_class_names

    _check_outputs(args)
    class_names = None if args.classes is None else read_class_names(args.classes)
    files, name = find_files(args.checkpoint, args.decoder, name=args.name, cache_dir=args.cache_dir)
    logging.disable_progress_bar()
    try:
        done = convert_checkpoint(
            *files,
            output=args.output,
            config=args.config,
            name=name,
            ema=args.ema,
            weights=args.weights,
            class_names=class_names,
            keep=bool(args.push_to_hub),
        )
    except CheckpointError as error:
        if error.path not in files:  # it is a Path for downloads only, so other files never match
            raise
        fix = "the file is a download that was kept; if it is damaged, delete it and run the same command again"
        raise CheckpointError(error.path, error.cause, fix) from error
    report = done.report
    for note in report.notes:
        print_text(line_text(f"note: {note}"), stream=sys.stderr)
    parts = " + ".join(original for original, _ in report.components)
    facts = f"{parts}, {report.parameters / 1e6:.1f}M weights; config from {report.config_source}"
    print_text(line_text(f"{done.folder}: {facts}{'; it was there already' if done.kept else ''}"))
    if args.report:
        path = Path(done.folder) / REPORT_NAME if args.report is True else Path(args.report)
        print_text(line_text(f"report: {report.write(path)}"))
    if args.push_to_hub:
        _push(args)
    return 0


def _to_transformers(args: argparse.Namespace) -> int:
    """Write a model folder of segzoo as one of transformers; returns 0.

    Raises:
        SegZooError: an option does not go with it, or transformers has no such model.
    """
    from segzoo.conversion.transformers_folders import write_transformers_folder
    from segzoo.image_processing_segzoo import SegZooImageProcessor
    from segzoo.inference.loading import load
    from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

    for option in ("decoder", "config", "name", "ema", "weights", "classes", "report", "push_to_hub"):
        if getattr(args, option):
            raise ConversionError(f"--to_transformers writes a folder that is loaded alone; leave {option} out")
    loaded = load(args.checkpoint)
    if not isinstance(loaded.model, SegZooForSemanticSegmentation) or not isinstance(
        loaded.processor, SegZooImageProcessor
    ):
        raise ConversionError(f"{args.checkpoint}: this is no model folder of segzoo; give one")
    for note in write_transformers_folder(loaded.model, loaded.processor, args.output):
        print_text(line_text(f"note: {note}"), stream=sys.stderr)
    print_text(line_text(f"{args.output}: a model of transformers"))
    return 0


def _describe(args: argparse.Namespace) -> int:
    """Print what the files or the config would become; returns 0.

    Raises:
        SegZooError: they do not convert.
    """
    from segzoo.conversion.convert import read_original
    from segzoo.conversion.describe import describe_conversion, describe_plan
    from segzoo.conversion.labels import read_class_names
    from segzoo.conversion.plan import make_plan

    class_names = None if args.classes is None else read_class_names(args.classes)
    released = args.checkpoint or args.name
    if args.checkpoint is not None and (Path(args.checkpoint).exists() or zoo.lookup(args.checkpoint) is None):
        if not is_web_address(args.checkpoint):
            explain_missing(args.checkpoint)
        given = [part for part in (args.checkpoint, args.decoder) if part is not None]
        original = read_original(
            *(downloaded(part, args.cache_dir) if is_web_address(part) else part for part in given),
            config=args.config,
            name=args.name,
            ema=args.ema,
            weights=args.weights,
            class_names=class_names,
        )
        print_text(describe_plan(make_plan(original)).to_text())
    elif args.config is not None:
        print_text(describe_conversion(Path(args.config), class_names=class_names).to_text())
    elif released is not None and zoo.find(released).pretrained:
        raise ConversionError(
            f"{released}: it is a backbone alone, and only its weights tell what it becomes; give --dry_run the file"
        )
    elif released is not None:
        print_text(describe_conversion(zoo.find(released).name, class_names=class_names).to_text())
    else:
        raise ConversionError("--dry_run needs CHECKPOINT, --config FILE or --name ZOO_NAME")
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Check before any work that the folder and the report can be written, and that a push has a proxy that works.

    Raises:
        SegZooError: they cannot.
    """
    from segzoo.conversion.convert import check_output
    from segzoo.files import check_file_place
    from segzoo.hub_names import hub_session

    check_output(args.output, keep=bool(args.push_to_hub), option="--output")  # a push may be repeated
    if args.push_to_hub:
        hub_session()
    if isinstance(args.report, str) and Path(args.report).absolute().parent != Path(args.output).absolute():
        check_file_place(args.report, option="--report")


def _push(args: argparse.Namespace) -> None:
    from segzoo.hub import push_folder

    print_text(f"pushed: {push_folder(args.output, args.push_to_hub, private=args.private)}")
