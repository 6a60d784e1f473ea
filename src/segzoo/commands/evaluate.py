"""Score a model on a data set: mIoU and more, and where it is wrong."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.data.options import add_data_options, check_data_options, source_from_options
from segzoo.errors import SegZooError
from segzoo.evaluation.folder import check_output_folder
from segzoo.files import check_file_place
from segzoo.inference.options import (
    add_model_options,
    add_protocol_options,
    add_speed_options,
    check_protocol_options,
    load_from_options,
    settings_from_options,
)
from segzoo.precision_state import own_precision
from segzoo.progress import print_text
from segzoo.text import line_text

if TYPE_CHECKING:
    from accelerate import Accelerator

    from segzoo.evaluation.api import Scored
    from segzoo.evaluation.job import EvaluationJob
    from segzoo.evaluation.pictures import WorstPredictions
    from segzoo.evaluation.report import EvaluationReport
    from segzoo.evaluation.run import EvaluationOptions
    from segzoo.evaluation.score_log import ScoreLog
    from segzoo.inference.settings import MemoryFormat

USUAL_SIZE = (512, 512)
"""Of pictures that are measured where whole ones go through the model."""

EPILOG = """
The model's own protocol is used where no option says otherwise. With --dataset NAME a known data set is scored as its
published scores were: its part, its classes and label rule, the size of its test pictures, its metric. On several GPUs:
accelerate launch -m segzoo evaluate MODEL DATA ... gives the same scores. An interrupted evaluation with --output
goes on when the same command is given again, on any number of processes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo evaluate``."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder, or its name on the Hub")
    parser.add_argument("data", metavar="DATA", help="folder with images/ and annotations/, or name of a data set")
    add_speed_options(parser)

    add_protocol_options(parser)
    add_model_options(parser, cache_dir=False)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        metavar="NAME",
        help="the known data set that DATA is, such as drive; it is scored as its published scores were",
    )
    data.add_argument("--split", help="part of the data (default: validation, or that of the published scores)")
    data.add_argument("--max_samples", type=int, metavar="N", help="score N images only, spread evenly over the split")
    add_data_options(data)
    data.add_argument(
        "--dataset_id", metavar="REPO", help="the data set's name on the Hub, for the card, if DATA is a folder"
    )
    data.add_argument("--task_id", default="default", help="task of the Hub's benchmark, for .eval_results")

    run = parser.add_argument_group("run")
    run.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="images per batch and process (default: 1)"
    )
    run.add_argument(
        "--num_workers", type=int, metavar="N", help="processes that load pictures (default: 4 with a GPU)"
    )
    run.add_argument(
        "--mixed_precision", choices=("no", "fp16", "bf16"), help="as in accelerate; default: its setting"
    )
    run.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ...; default: what accelerate finds")

    out = parser.add_argument_group("output")
    out.add_argument("--output", metavar="DIR", help="folder for all results; without it only the table is printed")
    out.add_argument("--overwrite", action="store_true", help="start anew in a folder with other results")
    out.add_argument(
        "--worst", type=int, default=8, metavar="N", help="draw the N worst images (default: %(default)s)"
    )
    out.add_argument("--save_predictions", action="store_true", help="keep every label map as PNG")
    out.add_argument("--write_card", action="store_true", help="put the scores into the README.md of the model folder")
    out.add_argument("--json", metavar="FILE", help="write the results as JSON; - is standard output")
    out.add_argument(
        "--save_every", type=float, default=5, metavar="SECONDS", help="how often the state is saved (default: 5)"
    )


@own_precision()
def run(args: argparse.Namespace) -> int:
    """Score the model, print the table, and write the results; returns 0.

    Raises:
        SegZooError: settings, model or data do not fit; most mistakes are found before the first image is scored.
    """
    check_arguments(args)

    from segzoo.evaluation.api import faster
    from segzoo.evaluation.pictures import WorstPredictions
    from segzoo.evaluation.run import EvaluationOptions, make_accelerator, open_log, score_job
    from segzoo.memory import keep_freed_memory

    options = EvaluationOptions(
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        num_streams=args.num_streams,
        output=Path(args.output) if args.output else None,
        overwrite=args.overwrite,
        save_predictions=args.save_predictions,
        save_every=args.save_every,
        worst=args.worst,
        task_id=args.task_id,
    )
    accelerator = make_accelerator(args.device, args.mixed_precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with contextlib.ExitStack() as open_things:
        # The main process goes first, so that errors are reported once and files are downloaded once.
        with accelerator.main_process_first():
            job = prepare(args, accelerator)
            scored = job if args.no_fuse else faster(job, accelerator)
            log = open_log(scored, options, accelerator)
            if log is not None:
                open_things.enter_context(log)
            finished = log is not None and len(log.done) == log.num_images
            if not finished and (not args.no_fuse or args.memory_format != "auto"):
                choose_memory_format(scored, args.memory_format, accelerator)
        accelerator.wait_for_everyone()  # no process writes its scores before all have read the earlier ones
        if accelerator.is_main_process:
            where = f"{accelerator.num_processes} x {accelerator.device.type}"
            print_text(f"{job.describe()}\non {where}, batches of {args.batch_size}", stream=sys.stderr)
            if log is not None:
                say_what_is_there(log)
        worst = WorstPredictions(args.worst if args.output else 0)
        report = score_job(scored, options, accelerator, log, worst)
        if accelerator.is_main_process:
            publish(args, job, report, options, accelerator, worst)
    accelerator.end_training()
    return 0


# Before the first image


def check_arguments(args: argparse.Namespace) -> None:
    """Check the arguments before anything is loaded.

    Raises:
        SegZooError: an argument is out of range, or arguments, files and folders do not fit each other.
    """
    for name, least in (("batch_size", 1), ("num_workers", 0), ("max_samples", 1), ("worst", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise SegZooError(f"--{name} is {value}; it must be {least} or more")
    names = ("slide", "window", "stride", "scales", "short_sides")
    check_protocol_options(**{name: getattr(args, name) for name in names})
    check_data_options(args)
    scored_of(args)
    if args.save_predictions and not args.output:
        raise SegZooError("--save_predictions needs --output DIR, the folder where they go")
    from segzoo.hub_names import refuse_wrong_path

    refuse_wrong_path(args.model)
    if not Path(args.model).exists() and "/" not in args.model:
        from segzoo import zoo

        if zoo.lookup(args.model) is not None:
            raise SegZooError(
                f"{args.model} is a released checkpoint; make a model folder of it first, with `segzoo convert {args.model} "
                "--output DIR`, which carries its test's size and windows"
            )
    if args.write_card and not Path(args.model).is_dir():
        raise SegZooError(
            f"--write_card is for model folders, and {args.model} is none; take model-index.yaml from --output instead"
        )
    if args.write_card and not os.access(args.model, os.W_OK):
        raise SegZooError(f"--write_card: the folder {args.model} cannot be written to")
    if args.write_card:
        from segzoo.cards.model_card import card_with_scores

        card_with_scores(args.model, [])  # an unreadable card is an error now, not after the evaluation
    if args.output:
        check_output_folder(Path(args.output))
    if args.json not in (None, "-"):
        check_file_place(args.json, option="--json")


def scored_of(args: argparse.Namespace) -> Scored:
    """What the arguments say is scored.

    Raises:
        SegZooError: there is no such data set, or another option contradicts its facts.
    """
    from segzoo.evaluation.api import Scored

    return Scored(
        data=replace(source_from_options(args), token=args.token),
        split=args.split,
        dataset=args.dataset,
        dataset_id=args.dataset_id,
        max_samples=args.max_samples,
        classes=args.classes,
        num_labels=args.num_labels,
        reduce_labels=args.do_reduce_labels,
        ignore_index=args.ignore_index,
    )


def prepare(args: argparse.Namespace, accelerator: Accelerator) -> EvaluationJob:
    """Load data and model, and check that they fit each other.

    Raises:
        SegZooError: they cannot be loaded, or do not fit.
    """
    from segzoo.evaluation.api import prepare_job

    return prepare_job(
        scored_of(args),
        args.model,
        load_model=lambda: load_from_options(args),
        settings=lambda model, processor, flip: settings_from_options(
            model,
            processor,
            slide=args.slide,
            window=args.window,
            stride=args.stride,
            scales=args.scales,
            short_sides=args.short_sides,
            flip=args.flip or flip,
            average=args.average,
        ),
        accelerator=accelerator,
        batch_size=args.batch_size,
        for_card=args.write_card,
        on_notes=lambda: notes(enabled=accelerator.is_main_process),
    )


def choose_memory_format(job: EvaluationJob, asked: MemoryFormat, accelerator: Accelerator) -> None:
    """Put the job's model into a memory format, and say which one, and what bfloat16 would bring on this machine."""
    from segzoo.inference.faster import in_memory_format, input_size
    from segzoo.inference.timing import has_bfloat16

    precision = accelerator.mixed_precision
    chosen = in_memory_format(
        job.model,
        asked,
        input_size(job.settings, USUAL_SIZE),
        autocast=precision == "bf16",
        bfloat16=precision == "no" and has_bfloat16(),
    )
    if chosen is not None and accelerator.is_main_process:
        hint = " (--mixed_precision bf16)" if "bfloat16" in chosen else ""
        print_text(f"{chosen}{hint}", stream=sys.stderr)


@contextlib.contextmanager
def notes(*, enabled: bool = True) -> Iterator[None]:
    """A context that prints its UserWarnings as one ``note:`` line each at its end, if enabled."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if enabled and warning.category is UserWarning:
            print_text(line_text(f"note: {warning.message}"), stream=sys.stderr)


def say_what_is_there(log: ScoreLog) -> None:
    """Print how many images earlier runs have scored, and which of their files are damaged."""
    for file in log.unreadable:
        print_text(line_text(f"note: {file} is damaged; its images are scored again"), stream=sys.stderr)
    if log.done:
        print_text(f"going on: {len(log.done)} of {log.num_images} images are scored already", stream=sys.stderr)


# Afterwards


def publish(
    args: argparse.Namespace,
    job: EvaluationJob,
    report: EvaluationReport,
    options: EvaluationOptions,
    accelerator: Accelerator,
    worst: WorstPredictions,
) -> None:
    """Print the table and write the files that the arguments ask for; the main process calls this."""
    from segzoo.evaluation.known import published_scores, row_of_folder
    from segzoo.evaluation.run import write_results
    from segzoo.files import json_text, write_whole

    table = sys.stderr if args.json == "-" else sys.stdout
    print_text(f"\n{report.header()}\n\n{report.table()}", stream=table)
    if job.data.facts is not None and (row := row_of_folder(args.model, job.data.facts)) is not None:
        print_text(published_scores(row), stream=table)
    if args.json == "-":
        print_text(json_text(report.to_dict()), end="")
    elif args.json:
        write_whole(args.json, json_text(report.to_dict()))
    if args.output:
        write_results(job, report, options, accelerator, worst)
        print_text(line_text(f"results, counts and pictures are in {args.output}"), stream=sys.stderr)
    if args.write_card:
        from segzoo.cards.model_card import update_model_card

        card = update_model_card(args.model, report.measurements(), model=job.model, processor=job.processor)
        print_text(line_text(f"scores are in {card} and {report.write_eval_results(args.model)}"), stream=sys.stderr)
    speed = report.run["images_per_second"]
    if speed:
        from segzoo.progress import duration

        seconds = report.run["seconds"]
        shown = duration(seconds) if seconds >= 60 else f"{seconds:.1f}s"
        print_text(f"{report.run['images_scored']} images in {shown}, {speed:.2f} images/s", stream=sys.stderr)
