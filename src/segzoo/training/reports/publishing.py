"""The results of a training, next to its model in the output folder: scores, log, card, figures and report page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.cards.model_card import ModelCardFacts
from segzoo.data import SegmentationDataset
from segzoo.data.classes import ClassFacts
from segzoo.evaluation import Evaluation
from segzoo.hub import push_folder
from segzoo.hub_names import no_hub_name
from segzoo.images.drawing import draw_confusion_matrix
from segzoo.text import published_name
from segzoo.training.environment import hardware_facts, software_versions
from segzoo.training.folder import CARD, FIGURES, LOG, REPORT, RESULTS, write_json, write_log, write_text
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.recipes.text import recipe_rows
from segzoo.training.reports.page import TrainingReport, write_report_page
from segzoo.training.reports.summary import describe_training, draw_curves, draw_samples
from segzoo.training.trackers import TRACKER_FILES

RECIPE = "recipe.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished training.

    Args:
        model, processor: the model that has been saved, and its image processor.
        classes: the classes of the data.
        recipe: the resolved recipe.
        settings: settings of the run besides the recipe, by name.
        history: the entries of ``training_log.jsonl``.
        seconds: duration of the training, including evaluations.
        protocol: how pictures went through the model, in words.
        evaluation: evaluation of the saved model; None if nothing was scored.
        augmented: protocol in words and evaluation of the saved model with more views, or None.
        best: ``step`` and ``mean_iou`` (0 to 1) of the best evaluation, or None.
        step: the step after which the saved model was taken.
        dataset_name: folder or Hub name of the data, as the user calls it.
        num_train, num_eval: number of pictures to train and to evaluate on; ``num_train`` is None for a stream.
        base_model: Hub name of the model that was fine-tuned, or None.
        repo_id: name of the repository on the Hub, or None.
        notes: sentences that a reader of the report must know.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    classes: ClassFacts
    recipe: Recipe
    settings: Mapping[str, Any]
    history: list[dict[str, Any]]
    seconds: float
    protocol: str
    evaluation: Evaluation | None
    augmented: tuple[str, Evaluation] | None
    best: Mapping[str, Any] | None
    step: int
    dataset_name: str
    num_train: int | None
    num_eval: int
    base_model: str | None = None
    repo_id: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> dict[str, Any]:
        """The numbers for ``all_results.json``, by name; scores are fractions."""
        results: dict[str, Any] = {}
        if self.evaluation is not None:
            results |= {f"eval_{name}": value for name, value in self.evaluation.summary().items()}
            ious = self.evaluation.metrics["per_category_iou"].tolist()
            results |= {f"eval_iou_{name}": iou for name, iou in zip(self.classes.names, ious, strict=True)}
            results["eval_pixels"] = int(self.evaluation.confusion.matrix.sum())  # those that count, in all images
        if self.augmented is not None:
            results |= {f"eval_augmented_{name}": value for name, value in self.augmented[1].summary().items()}
        losses = [entry["loss"] for entry in self.history if "loss" in entry]
        if losses:
            results |= {
                "train_loss": losses[-1],
                "train_steps": self.history[-1]["step"],
                "train_seconds": self.seconds,
            }
        return results

    @property
    def dataset_title(self) -> str:
        """The data set's name for people."""
        return self.classes.dataset or Path(self.dataset_name).name

    @property
    def is_on_the_hub(self) -> bool:
        """Whether the data are a data set on the Hub, not a local folder, file or pattern, nor an address."""
        return not Path(self.dataset_name).exists() and no_hub_name(self.dataset_name) is None

    @property
    def source_of_classes(self) -> str:
        """Where the class names come from, in words and without the path of a file."""
        source = self.classes.source
        return (
            source.replace(self.dataset_name, self.dataset_title)
            if source.endswith(f" {self.dataset_name}")
            else published_name(source)
        )

    @property
    def is_synthetic(self) -> bool:
        """Whether `segzoo.data.scenes` drew the pictures; it leaves a ``scenes.json`` in the folder."""
        return (Path(self.dataset_name) / "scenes.json").is_file()


def publish_outcome(
    outcome: Outcome, options: RunOptions, eval_data: SegmentationDataset, *, accelerator: Accelerator
) -> Iterator[str]:
    """Add all results to the output folder, which holds the model already, and upload it if the options ask for it.

    One process iterates over the result to the end.

    Args:
        outcome: the finished training.
        options: options of the run: output folder and repository.
        eval_data: the pictures that were scored; a few of them are drawn.
        accelerator: the accelerator of the training.

    Yields:
        Lines for the user: what could not be drawn, where everything is.

    Raises:
        SegZooError: a file cannot be written, or the folder cannot be uploaded.
    """
    directory = Path(options.output_dir)
    yield from _write(outcome, directory, eval_data, accelerator)
    files = [name for name in (REPORT, RESULTS, LOG) if (directory / name).is_file()]
    yield f"model, card, {', '.join(files)} and {FIGURES}/ are in {directory}"
    if options.push_to_hub:
        url = push_folder(
            directory,
            options.hub_model_id,
            private=options.hub_private_repo,
            token=options.hub_options["token"],
            ignore_patterns=["step_*", "step_*/*", ".*", *TRACKER_FILES],
        )
        yield f"pushed: {url}"


def _write(outcome: Outcome, directory: Path, eval_data: SegmentationDataset, accelerator: Accelerator) -> list[str]:
    """Write the results; returns lines for the user about figures that could not be drawn."""
    classes, evaluation, notes = outcome.classes, outcome.evaluation, []
    # Numbers first: an error in pictures or pages must not lose them.
    write_json(directory / RESULTS, outcome.results)
    write_log(directory / LOG, outcome.history)
    outcome.recipe.write_recipe(directory / RECIPE)
    write_text(directory / CARD, _card(outcome, directory))
    note = draw_curves(outcome.history, directory / FIGURES / "curves.png", title=outcome.dataset_title)
    if note:
        notes.append(f"note: no curves: {note}")
    if evaluation is not None:
        draw_samples(
            outcome.model,
            outcome.processor,
            eval_data,
            directory / FIGURES,
            accelerator=accelerator,
            names=classes.names,
            palette=classes.palette,
        )
        draw_confusion_matrix(evaluation.confusion.matrix, classes.names, directory / FIGURES / "confusion_matrix.png")
        write_report_page(directory, _report(outcome, directory, accelerator))
    return notes


def _card(outcome: Outcome, directory: Path) -> str:
    facts = ModelCardFacts(
        title=directory.resolve().name,
        dataset=outcome.dataset_title,
        dataset_id=outcome.dataset_name if outcome.is_on_the_hub else None,
        inference=outcome.protocol,
        training={
            **recipe_rows(outcome.recipe),
            **outcome.settings,
            "training time": f"{outcome.seconds / 60:.1f} minutes",
        },
        base_model=outcome.base_model,
        synthetic=outcome.is_synthetic,
        repo_id=outcome.repo_id,
    )
    scored = [] if outcome.evaluation is None else [(outcome.protocol, outcome.evaluation)]
    if outcome.augmented is not None:
        scored.append(outcome.augmented)
    return describe_training(outcome.model, facts, scored, processor=outcome.processor)


def _report(outcome: Outcome, directory: Path, accelerator: Accelerator) -> TrainingReport:
    classes = outcome.classes
    data = {
        "data": outcome.dataset_title,
        "training pictures": "a stream" if outcome.num_train is None else outcome.num_train,
        "validation pictures": outcome.num_eval,
        "classes": f"{len(classes.names)} ({outcome.source_of_classes})",
        "label rule": "0 is no class, ids from 1" if classes.reduce_labels else "ids from 0",
    }
    others = [] if outcome.augmented is None else [(outcome.augmented[0], outcome.augmented[1].metrics["mean_iou"])]
    return TrainingReport(
        title=directory.resolve().name,
        summary=f"{type(outcome.model).__name__}, {sum(p.numel() for p in outcome.model.parameters()) / 1e6:.1f} million parameters.",
        dataset=outcome.dataset_title,
        num_images=outcome.evaluation.num_images,
        protocol=outcome.protocol,
        confusion=outcome.evaluation.confusion.matrix,
        names=classes.names,
        palette=classes.palette,
        step=outcome.step,
        best=outcome.best,
        other_scores=others,
        history=outcome.history,
        seconds=outcome.seconds,
        recipe={**outcome.recipe.to_dict(), **outcome.settings},
        data=data,
        hardware=hardware_facts(accelerator.device, accelerator.num_processes),
        software=software_versions(),
        model_name=outcome.repo_id or directory.resolve().name,
        synthetic=outcome.is_synthetic,
        notes=outcome.notes,
    )
