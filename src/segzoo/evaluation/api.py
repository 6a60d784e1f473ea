"""`segzoo.evaluate`: the scores of a model on data in a line of Python, and what the command does before it scores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from segzoo.data.data_source import DataSource
from segzoo.data.facts import dataset_facts
from segzoo.errors import SegZooError
from segzoo.evaluation.job import (
    EvaluationJob,
    check_names_for_card,
    classes_for,
    load_split,
    prepare_evaluation,
)
from segzoo.evaluation.keywords import EvaluateKeywords, parted
from segzoo.evaluation.known import at_test_size, row_of_folder
from segzoo.evaluation.pictures import WorstPredictions
from segzoo.evaluation.run import EvaluationOptions, make_accelerator, open_log, score_job, write_results
from segzoo.inference.loading import LoadedModel, load
from segzoo.inference.options import check_protocol_options, settings_from_options
from segzoo.inference.settings import InferenceSettings
from segzoo.precision_state import own_precision

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn
    from transformers import BaseImageProcessor

    from segzoo.evaluation.report import EvaluationReport

MakeSettings = Callable[["nn.Module", "BaseImageProcessor", bool], InferenceSettings]
"""The protocol for a model, its image processor, and whether published scores of it are with flips."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What is scored.

    Args:
        data: where the pictures and masks come from.
        split: name of the split; None: ``validation``, or the part that published scores of ``dataset`` are measured on.
        dataset: known data set whose classes, label rule, size and metric hold; None: those of data and model.
        dataset_id: the data set's name on the Hub, for cards.
        max_samples: score so many pictures, spread evenly over the split; None: all.
        classes: known data set or file that names the classes; None: as is known of the data, else the model's.
        num_labels: number of classes, where they have no names.
        reduce_labels: whether masks hold 0 for "no class" and 1..N; None: as is known of the data, else the model.
        ignore_index: label that does not count.
    """

    data: DataSource
    split: str | None = None
    dataset: str | None = None
    dataset_id: str | None = None
    max_samples: int | None = None
    classes: str | os.PathLike | None = None
    num_labels: int | None = None
    reduce_labels: bool | None = None
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if self.dataset is None:
            return
        dataset_facts(self.dataset)
        given = {
            "classes": self.classes is not None,
            "num_labels": self.num_labels is not None,
            "do_reduce_labels": self.reduce_labels is not None,
        }
        if wrong := [f"--{name}" for name, is_given in given.items() if is_given]:
            raise SegZooError(
                f"--dataset {self.dataset} gives the classes and the label rule; leave out {' and '.join(wrong)}, or --dataset"
            )


def prepare_job(
    scored: Scored,
    model_name: str,
    *,
    load_model: Callable[[], LoadedModel],
    settings: MakeSettings,
    accelerator: Accelerator,
    batch_size: int = 1,
    for_card: bool = False,
    on_notes: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> EvaluationJob:
    """Load data and model, and check that they fit each other.

    Args:
        scored: what is scored.
        model_name: the model's folder or name on the Hub.
        load_model: loads it; called after the data are there.
        settings: makes the protocol.
        accelerator: the accelerator of this process.
        batch_size: images per batch and process.
        for_card: whether the names of the classes must be the model's, since scores go into its card.
        on_notes: makes a context for the warnings of what is checked.

    Raises:
        SegZooError: they cannot be loaded, or do not fit.
    """
    import datasets

    datasets.disable_progress_bars()
    facts = None if scored.dataset is None else dataset_facts(scored.dataset)
    data = load_split(
        scored.data, scored.split, max_samples=scored.max_samples, dataset_id=scored.dataset_id, facts=facts
    )
    model, processor = load_model()
    row = None if facts is None else row_of_folder(model_name, facts)
    with on_notes():
        if facts is not None:
            processor = at_test_size(processor, facts, model)
        protocol = settings(model, processor, row is not None and row.test_flip)
        palette = None if scored.num_labels else scored.data.palette
        classes = classes_for(
            model,
            processor,
            scored.data.name,
            classes=scored.classes or palette,
            num_labels=scored.num_labels,
            reduce_labels=scored.reduce_labels,
            model_name=model_name,
            facts=facts,
        )
        if for_card:
            check_names_for_card(model, classes, is_known=facts is not None)
        job = prepare_evaluation(
            model,
            processor,
            data,
            classes,
            protocol,
            model_name=model_name,
            ignore_index=scored.ignore_index,
            mixed_precision=accelerator.mixed_precision,
            batch_size=batch_size,
            device=accelerator.device.type,
        )
    model.to(accelerator.device)
    return job


def faster(job: EvaluationJob, accelerator: Accelerator) -> EvaluationJob:
    """The job with its model as `faster_on_cpu` makes it; without fusing under autocast, where that is no gain."""
    from segzoo.inference.faster import faster_on_cpu

    model = faster_on_cpu(job.model, fuse=accelerator.mixed_precision == "no")
    return job if model is job.model else replace(job, model=model, identity={**job.identity, "fused": True})


@own_precision()
def evaluate(
    model: str | os.PathLike,
    data: Scored | DataSource | str | os.PathLike,
    *,
    dataset: str | None = None,
    settings: InferenceSettings | None = None,
    options: EvaluationOptions | None = None,
    device: str | None = None,
    mixed_precision: str | None = None,
    **given: Unpack[EvaluateKeywords],
) -> EvaluationReport:
    """Score a model on data, as ``segzoo evaluate`` does.

    Args:
        model: model folder, or name on the Hub.
        data: folder, archive, file or Hub name of pictures with masks; or a `Scored`.
        dataset: known data set that ``data`` are, as ``--dataset``: published scores are repeated with it.
        settings: windows, scales and flips; None: the protocol that the model comes with.
        options: batches, and the folder for results, scores so far and pictures; None: batches of one, and no folder.
        device: ``"cpu"``, ``"cuda:1"`` and so on; None: what accelerate finds.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``; None: accelerate's own setting.
        given: options of ``segzoo evaluate`` by the same names, such as ``split``, ``max_samples``, ``scales``, ``flip``,
            ``batch_size`` or ``output``; they change ``data`` and ``options`` where these are objects.

    Returns:
        The report: ``report.metrics`` has the scores, 0..1, ``report.table()`` the classes. In every process of an
        accelerate run it holds the counts of all.

    Raises:
        SegZooError: an option that does not exist, model or data that cannot be loaded or do not fit, or a folder that
            holds the scores of another evaluation.

    Example:
        ```python
        report = segzoo.evaluate("models/segformer-b0", "path/to/data", split="test", flip=True)
        print(report.table())
        ```
    """
    what, how, runs = parted(given, ("dataset", "settings", "options", "device", "mixed_precision"))
    if settings is not None and how:
        raise SegZooError(f"evaluate has settings and {next(iter(how))}; leave one out")
    check_protocol_options(**{name: value for name, value in how.items() if name not in ("flip", "average")})
    if dataset is not None:
        what["dataset"] = dataset
    scored = replace(data if isinstance(data, Scored) else Scored(data=DataSource.of(data)), **what)
    options = replace(EvaluationOptions() if options is None else options, **runs)
    accelerator = make_accelerator(device, mixed_precision)

    def make_settings(net: nn.Module, processor: BaseImageProcessor, flip: bool) -> InferenceSettings:
        if settings is not None:
            return settings
        return settings_from_options(net, processor, **how | {"flip": how.get("flip", flip)})

    with contextlib.ExitStack() as open_things:
        with accelerator.main_process_first():
            job = faster(
                prepare_job(
                    scored,
                    os.fspath(model),
                    load_model=lambda: load(model),
                    settings=make_settings,
                    accelerator=accelerator,
                    batch_size=options.batch_size,
                ),
                accelerator,
            )
            log = open_log(job, options, accelerator)
            if log is not None:
                open_things.enter_context(log)
        accelerator.wait_for_everyone()  # no process writes its scores before all have read the earlier ones
        worst = WorstPredictions(0 if options.output is None else options.worst)
        report = score_job(job, options, accelerator, log, worst)
        if options.output is not None and accelerator.is_main_process:
            write_results(job, report, options, accelerator, worst)
    return report
