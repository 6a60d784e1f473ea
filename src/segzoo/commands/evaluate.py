"""Score a model on a data set: mIoU and more, and where it is wrong."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.errors import SegZooError
from segzoo.inference.options import add_protocol_options, check_protocol_options, settings_from_options
from segzoo.memory import keep_freed_memory

if TYPE_CHECKING:
    from accelerate import Accelerator

    from segzoo.evaluation.job import EvaluationJob
    from segzoo.evaluation.report import EvaluationReport
    from segzoo.evaluation.score_log import ScoreLog

STATE, PREDICTIONS = "state", "predictions"
EPILOG = """
The model's own protocol is used where no option says otherwise. On several GPUs:
accelerate launch -m segzoo evaluate MODEL DATA ... gives the same scores. An interrupted evaluation with --output
goes on when the same command is given again, on any number of processes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``segzoo evaluate``."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder, or its name on the Hub")
    parser.add_argument("data", metavar="DATA", help="folder with images/ and annotations/, or name of a data set")

    add_protocol_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--split", default="validation", help="part of the data (default: %(default)s)")
    data.add_argument("--max_samples", type=int, metavar="N", help="score N images only, spread evenly over the split")
    data.add_argument(
        "--classes", metavar="NAME|FILE", help="the data's classes: a known data set, or a JSON of names"
    )
    data.add_argument(
        "--num_labels", type=int, metavar="N", help="the data's number of classes, where it has no names"
    )
    data.add_argument(
        "--do_reduce_labels",
        action=argparse.BooleanOptionalAction,
        help="masks hold 0 for 'no class' and 1..N; left out, as is known of the data, else of the model",
    )
    data.add_argument("--ignore_index", type=int, default=255, help="label that does not count (default: %(default)s)")
    data.add_argument("--dataset_config_name", metavar="NAME", help="configuration of a data set on the Hub")
    data.add_argument("--image_column", metavar="NAME", help="column of the pictures, where it is not found")
    data.add_argument("--label_column", metavar="NAME", help="column of the masks, where it is not found")
    data.add_argument(
        "--dataset_id", metavar="REPO", help="the data set's name on the Hub, for the card, if DATA is a folder"
    )
    data.add_argument("--task_id", default="default", help="task of the Hub's benchmark, for .eval_results")

    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=1, metavar="N", help="images a batch and process (default: 1)")
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


def run(args: argparse.Namespace) -> int:
    """Scores, prints and writes; returns 0.

    Raises:
        SegZooError: settings, model or data do not fit; found before the first image is scored where it can be.
    """
    check_arguments(args)
    accelerator = make_accelerator(args.device, args.mixed_precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with contextlib.ExitStack() as open_things:
        # The main process goes first: what is wrong is said once, and nobody waits for a download twice.
        with accelerator.main_process_first():
            job = prepare(args, accelerator)
            log = open_things.enter_context(open_log(args, job, accelerator)) if args.output else None
        accelerator.wait_for_everyone()  # nobody writes before everybody has read
        if accelerator.is_main_process:
            where = f"{accelerator.num_processes} x {accelerator.device.type}"
            print(f"{job.describe()}\non {where}, batches of {args.batch_size}", file=sys.stderr)
            if log is not None:
                say_what_is_there(log)
        report = score(args, job, accelerator, log)
        if accelerator.is_main_process:
            publish(args, job, report, accelerator)
    accelerator.end_training()
    return 0


# Before the first image


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse settings that make no sense, before anything is loaded.

    Raises:
        SegZooError: the first of them.
    """
    for name, least in (("batch_size", 1), ("num_workers", 0), ("max_samples", 1), ("num_labels", 1), ("worst", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise SegZooError(f"--{name} is {value}; it must be {least} or more")
    names = ("slide", "window", "stride", "scales", "short_sides")
    check_protocol_options(**{name: getattr(args, name) for name in names})
    if args.classes is not None and args.num_labels is not None:
        raise SegZooError("--classes names the classes and so their number; leave out --num_labels")
    if args.save_predictions and not args.output:
        raise SegZooError("--save_predictions needs --output DIR, the folder where they go")
    if os.sep in args.model and not Path(args.model).is_dir():
        raise SegZooError(f"{args.model}: there is no such model folder")
    if args.write_card and not Path(args.model).is_dir():
        raise SegZooError(
            f"--write_card is for model folders, and {args.model} is none; take model-index.yaml from --output instead"
        )
    if args.write_card and not os.access(args.model, os.W_OK):
        raise SegZooError(f"--write_card: the folder {args.model} cannot be written to")
    if args.write_card:
        from segzoo.cards.model_card import card_with_scores

        card_with_scores(args.model, [])  # a card that cannot be read shall not wait
    if args.output:
        check_output_folder(Path(args.output))
    if args.json not in (None, "-") and not Path(args.json).absolute().parent.is_dir():
        raise SegZooError(f"--json {args.json}: there is no folder {Path(args.json).parent}")


def check_output_folder(folder: Path) -> None:
    """Refuse a folder that is none, is not ours, or cannot be written to.

    Raises:
        SegZooError: what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise SegZooError(f"--output {folder}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).is_dir():
        raise SegZooError(f"--output {folder}: is not empty and holds no evaluation; choose another folder")
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    if not os.access(there, os.W_OK):
        raise SegZooError(f"--output {folder}: {there} cannot be written to; choose another folder")


def make_accelerator(device: str | None, mixed_precision: str | None) -> Accelerator:
    """The accelerator of this process.

    Raises:
        SegZooError: the device is not there, or mixed precision does not work on it.
    """
    import torch
    from accelerate import Accelerator

    try:
        wanted = None if device is None else torch.device(device)
        if wanted is not None and wanted.index is not None:
            torch.accelerator.set_device_index(wanted.index)
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
    except (RuntimeError, ValueError, AssertionError) as error:
        given = [f"--device {device}"] * (device is not None)
        given += [f"--mixed_precision {mixed_precision}"] * (mixed_precision is not None)
        reason = str(error).strip().splitlines()[0]
        raise SegZooError(f"{', '.join(given) or 'accelerate'}: cannot be used here ({reason})") from error
    if wanted is not None and wanted.type != accelerator.device.type:
        raise SegZooError(f"--device {device}: accelerate runs on {accelerator.device.type} here; try --device cpu")
    return accelerator


def prepare(args: argparse.Namespace, accelerator: Accelerator) -> EvaluationJob:
    """Load data and model, and see whether they fit.

    Raises:
        SegZooError: they do not, or cannot be loaded.
    """
    import datasets

    from segzoo.commands.predict import load_model
    from segzoo.evaluation.job import classes_for, load_split, prepare_evaluation

    datasets.disable_progress_bars()
    rows, subset = load_split(
        args.data,
        args.split,
        config_name=args.dataset_config_name,
        image_column=args.image_column,
        label_column=args.label_column,
        max_samples=args.max_samples,
    )
    model, processor = load_model(args.model, "cpu")
    settings = settings_from_options(
        model,
        processor,
        slide=args.slide,
        window=args.window,
        stride=args.stride,
        scales=args.scales,
        short_sides=args.short_sides,
        flip=args.flip,
        average=args.average,
    )
    with notes(enabled=accelerator.is_main_process):
        classes = classes_for(
            model,
            processor,
            args.data,
            classes=args.classes,
            num_labels=args.num_labels,
            reduce_labels=args.do_reduce_labels,
            model_name=args.model,
        )
        job = prepare_evaluation(
            model,
            processor,
            model_name=args.model,
            data=args.data,
            rows=rows,
            classes=classes,
            settings=settings,
            split=args.split,
            subset=subset,
            ignore_index=args.ignore_index,
            dataset_id=args.dataset_id,
            mixed_precision=accelerator.mixed_precision,
            batch_size=args.batch_size,
            device=accelerator.device.type,
        )
    model.to(accelerator.device)
    return job


@contextlib.contextmanager
def notes(*, enabled: bool = True):
    """Show warnings as one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if enabled and warning.category is UserWarning:
            print(f"note: {warning.message}", file=sys.stderr)


# Scoring


def open_log(args: argparse.Namespace, job: EvaluationJob, accelerator: Accelerator) -> ScoreLog:
    """The scores that are in the output folder already, and the place for more.

    Raises:
        SegZooError: the folder holds other results and nobody asked to replace them, or is in use.
    """
    from segzoo.evaluation.score_log import ScoreLog

    log = ScoreLog(
        Path(args.output) / STATE,
        {**job.identity, "save_predictions": args.save_predictions},
        num_images=len(job.dataset),
        num_labels=job.num_labels,
        ignore_index=job.ignore_index,
        process_index=accelerator.process_index,
        batch_size=args.batch_size,
        seconds=args.save_every,
        start_anew=args.overwrite,
    )
    if args.overwrite and accelerator.is_main_process:
        remove_results(Path(args.output))
    return log


def remove_results(folder: Path) -> None:
    """Remove what an earlier evaluation wrote, and nothing else."""
    from segzoo.evaluation import pictures, report

    for name in (pictures.WORST_FOLDER, PREDICTIONS, report.EVAL_RESULTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*report.FILES, pictures.WORST_SHEET):
        (folder / name).unlink(missing_ok=True)


def say_what_is_there(log: ScoreLog) -> None:
    """Tell how far earlier runs came."""
    for file in log.unreadable:
        print(f"note: {file} is damaged; its images are scored again", file=sys.stderr)
    if log.done:
        print(f"going on: {len(log.done)} of {log.num_images} images are scored already", file=sys.stderr)


def score(
    args: argparse.Namespace, job: EvaluationJob, accelerator: Accelerator, log: ScoreLog | None
) -> EvaluationReport:
    """Score all images that are not scored yet; every process calls this and gets the counts of all."""
    from segzoo.evaluation import evaluate
    from segzoo.evaluation.progress import EvaluationProgress
    from segzoo.evaluation.report import EvaluationReport
    from segzoo.evaluation.score_log import ImageRow
    from segzoo.files import write_whole
    from segzoo.images.drawing import label_image

    done = frozenset() if log is None else frozenset(log.done)
    progress = EvaluationProgress(
        len(job.dataset),
        num_done=len(done),
        num_processes=accelerator.num_processes,
        enabled=accelerator.is_main_process,
    )
    files = job.prediction_files(Path(args.output) / PREDICTIONS) if args.save_predictions else []

    def on_image(found) -> None:
        if files:
            picture = label_image(found.prediction, job.classes.palette)
            files[found.index].parent.mkdir(parents=True, exist_ok=True)
            write_whole(files[found.index], lambda file: picture.save(file, format="PNG"))
        if log is not None:
            row = ImageRow(found.index, found.name, found.mean_iou, found.pixel_accuracy, found.num_pixels)
            log.add(row, found.confusion)
        progress.image()

    num_workers = args.num_workers
    if num_workers is None:
        num_workers = 0 if accelerator.device.type == "cpu" else 4
    try:
        evaluation = evaluate(
            job.model,
            job.processor,
            job.dataset,
            accelerator=accelerator,
            num_labels=job.num_labels,
            ignore_index=job.ignore_index,
            settings=job.settings,
            batch_size=args.batch_size,
            num_workers=num_workers,
            start=None if log is None else log.earlier_confusion,
            done=done,
            on_image=on_image,
        )
    except KeyboardInterrupt:
        if log is not None and accelerator.is_main_process:
            progress.message(f"what is scored so far is kept in {args.output}; the same command goes on from there")
        raise
    finally:
        progress.finish_line()
        if log is not None:
            log.save()
    accelerator.wait_for_everyone()
    scored = len(job.dataset) - len(done)
    return EvaluationReport(
        confusion=evaluation.confusion.matrix.cpu().numpy(),
        names=job.classes.names,
        images=log.collect() if log is not None and accelerator.is_main_process else (),
        num_images=len(job.dataset),
        model=args.model,
        data=args.data,
        dataset=job.title,
        dataset_id=job.dataset_id,
        split=args.split,
        protocol=job.protocol,
        variant=job.variant,
        settings=job.identity,
        run={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "processes": accelerator.num_processes,
            "images_scored": scored,
            "seconds": round(evaluation.seconds, 3),
            "images_per_second": round(scored / evaluation.seconds, 3) if scored else None,
        },
        task_id=args.task_id,
    )


# Afterwards


def publish(args: argparse.Namespace, job: EvaluationJob, report: EvaluationReport, accelerator: Accelerator) -> None:
    """Print the table and write everything that is asked for; the main process calls this."""
    from segzoo.files import json_text, write_whole

    table = sys.stderr if args.json == "-" else sys.stdout
    print(f"\n{report.header()}\n\n{report.table()}", file=table, flush=True)
    if args.json == "-":
        print(json_text(report.to_dict()), end="")
    elif args.json:
        write_whole(args.json, json_text(report.to_dict()))
    if args.output:
        write_results(args, job, report, accelerator)
        print(f"results, counts and pictures are in {args.output}", file=sys.stderr)
    if args.write_card:
        from segzoo.cards.model_card import update_model_card

        card = update_model_card(args.model, report.measurements(), model=job.model)
        print(f"scores are in {card} and {report.write_eval_results(args.model)}", file=sys.stderr)
    speed = report.run["images_per_second"]
    if speed:
        from segzoo.progress import duration

        seconds = report.run["seconds"]
        shown = duration(seconds) if seconds >= 60 else f"{seconds:.1f}s"
        print(f"{report.run['images_scored']} images in {shown}, {speed:.2f} images/s", file=sys.stderr)


def write_results(
    args: argparse.Namespace, job: EvaluationJob, report: EvaluationReport, accelerator: Accelerator
) -> None:
    """Fill the output folder: numbers first, pictures afterwards."""
    from segzoo.evaluation.pictures import draw_worst, worst_rows

    folder = Path(args.output)
    report.write(folder)
    worst = worst_rows(report.images, args.worst)
    draw_worst(
        [job.wrong_picture(row, accelerator.autocast) for row in worst],
        folder,
        palette=job.classes.palette,
        names=job.classes.names,
        ignore_index=job.ignore_index,
        title=f"worst {len(worst)} of {report.num_images} images: {report.dataset}, {report.split}; {report.protocol}",
    )
