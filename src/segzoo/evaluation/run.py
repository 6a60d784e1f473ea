"""The course of an evaluation: choose the device, score, keep the scores so far, and write the results."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator

from segzoo.errors import SegZooError, first_line
from segzoo.evaluation import pictures, report
from segzoo.evaluation.folder import PREDICTIONS, STATE
from segzoo.evaluation.job import EvaluationJob, prediction_files
from segzoo.evaluation.pictures import WorstPredictions, draw_worst, worst_rows
from segzoo.evaluation.progress import EvaluationProgress
from segzoo.evaluation.report import EvaluationReport
from segzoo.evaluation.score_log import ImageRow, ScoreLog
from segzoo.evaluation.scoring import ImageScore, evaluate
from segzoo.images.drawing import label_image
from segzoo.images.writing import write_png
from segzoo.inference.streams import check_num_streams
from segzoo.precision_state import refuse_ignored_precision


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How an evaluation runs, and what it writes.

    Args:
        batch_size: images per batch and process.
        num_workers: number of data-loading processes; None: 4, on CPUs 0.
        num_streams: number of batches that go through the model at the same time on a CPU, each on its share of the
            threads; None: two, if they are small.
        output: folder for the results and for the scores so far; None writes nothing.
        overwrite: start anew in a folder with other results.
        save_predictions: keep every label map as PNG.
        save_every: least time between two writes of the scores so far, in seconds.
        worst: how many of the worst images are drawn.
        task_id: the task in the Hub's benchmark.

    Raises:
        SegZooError: ``batch_size`` or ``num_streams`` is below 1.
    """

    batch_size: int = 1
    num_workers: int | None = None
    num_streams: int | None = None
    output: Path | None = None
    overwrite: bool = False
    save_predictions: bool = False
    save_every: float = 5
    worst: int = 8
    task_id: str = "default"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SegZooError(f"batch_size is {self.batch_size}; it is at least 1")
        check_num_streams(self.num_streams)
        if self.output is not None:
            object.__setattr__(self, "output", Path(self.output))


def make_accelerator(device: str | None = None, mixed_precision: str | None = None) -> Accelerator:
    """Make the accelerator of this process.

    Args:
        device: ``cpu``, ``cuda:1`` and so on; None: the device that accelerate finds.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``; None: accelerate's own setting.

    Raises:
        SegZooError: the device is not available, or mixed precision does not work on it.
    """
    try:
        wanted = None if device is None else torch.device(device)
        if wanted is not None and wanted.index is not None:
            torch.accelerator.set_device_index(wanted.index)
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
        refuse_ignored_precision(accelerator)
    except (RuntimeError, ValueError, AssertionError) as error:
        given = [f"--device {device}"] * (device is not None)
        given += [f"--mixed_precision {mixed_precision}"] * (mixed_precision is not None)
        where = ", ".join(given) or "accelerate"
        raise SegZooError(f"{where}: cannot be used here ({first_line(error)})") from error
    if wanted is not None and wanted.type != accelerator.device.type:
        raise SegZooError(f"--device {device}: accelerate runs on {accelerator.device.type} here; try --device cpu")
    return accelerator


def open_log(job: EvaluationJob, options: EvaluationOptions, accelerator: Accelerator) -> ScoreLog | None:
    """Open the log of scores in the output folder, with those of earlier runs; None without an output folder.

    Raises:
        SegZooError: the folder holds the scores of another evaluation and ``options.overwrite`` is False, or is in
            use.
    """
    if options.output is None:
        return None
    log = ScoreLog(
        options.output / STATE,
        {**job.identity, "save_predictions": options.save_predictions},
        num_images=len(job.dataset),
        num_labels=job.num_outputs,
        ignore_index=job.ignore_index,
        process_index=accelerator.process_index,
        batch_size=options.batch_size,
        seconds=options.save_every,
        start_anew=options.overwrite,
    )
    if options.overwrite and accelerator.is_main_process:
        _remove_results(options.output)
    return log


def _remove_results(folder: Path) -> None:
    """Remove what an earlier evaluation wrote, and nothing else."""
    for name in (pictures.WORST_FOLDER, PREDICTIONS, report.EVAL_RESULTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*report.FILES, pictures.WORST_SHEET):
        (folder / name).unlink(missing_ok=True)


def score_job(
    job: EvaluationJob,
    options: EvaluationOptions,
    accelerator: Accelerator,
    log: ScoreLog | None = None,
    worst: WorstPredictions | None = None,
) -> EvaluationReport:
    """Score all images that are not scored yet; every process calls this and gets the counts of all processes.

    Args:
        job: what to score.
        options: how to run.
        accelerator: the accelerator of this process.
        log: the result of `open_log`; it holds the earlier scores and takes the new ones.
        worst: takes the label maps of the worst images, for `write_results`.
    """
    done = frozenset() if log is None else frozenset(log.done)
    progress = EvaluationProgress(
        len(job.dataset),
        num_done=len(done),
        num_processes=accelerator.num_processes,
        enabled=accelerator.is_main_process,
    )
    files = prediction_files(options.output / PREDICTIONS, job.data.rows) if options.save_predictions else []

    def on_image(found: ImageScore) -> None:
        if files:
            files[found.index].parent.mkdir(parents=True, exist_ok=True)
            write_png(files[found.index], label_image(found.prediction, job.classes.palette))
        row = ImageRow(found.index, found.name, found.mean_iou, found.pixel_accuracy, found.num_pixels)
        if log is not None:
            log.add(row, found.confusion)
        if worst is not None:
            worst.add(row, found.prediction.numpy())
        progress.image()

    num_workers = options.num_workers
    if num_workers is None:
        num_workers = 0 if accelerator.device.type == "cpu" else 4
    try:
        evaluation = evaluate(
            job.model,
            job.processor,
            job.dataset,
            accelerator=accelerator,
            num_labels=job.num_outputs,
            ignore_index=job.ignore_index,
            settings=job.settings,
            batch_size=options.batch_size,
            num_workers=num_workers,
            num_streams=options.num_streams,
            start=None if log is None else log.earlier_confusion,
            done=done,
            on_image=on_image,
        )
    except KeyboardInterrupt:
        if log is not None and accelerator.is_main_process:
            progress.message(f"what is scored so far is kept in {options.output}; the same command goes on from there")
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
        model=job.model_name,
        data=job.data.name,
        dataset=job.title,
        dataset_id=job.data.dataset_id,
        split=job.data.split,
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
        task_id=options.task_id,
        **({} if job.data.facts is None else {"metric": job.data.facts.metric, "mean_over": job.data.facts.mean_over}),
    )


def write_results(
    job: EvaluationJob,
    found: EvaluationReport,
    options: EvaluationOptions,
    accelerator: Accelerator,
    kept: WorstPredictions | None = None,
) -> None:
    """Write the results into the output folder: numbers first, pictures afterwards.

    Args:
        job: what was scored.
        found: the result of `score_job`.
        options: names the folder and the number of worst images.
        accelerator: worst images that are not in ``kept`` are predicted once more under its autocast.
        kept: the label maps that `score_job` kept.
    """
    found.write(options.output)
    worst = worst_rows(found.images, options.worst)
    draw_worst(
        [job.wrong_picture(row, accelerator.autocast, None if kept is None else kept.get(row)) for row in worst],
        options.output,
        palette=job.classes.palette,
        names=job.classes.names,
        ignore_index=job.ignore_index,
        title=f"worst {len(worst)} of {found.num_images} images: {found.dataset}, {found.split}; {found.protocol}",
    )
