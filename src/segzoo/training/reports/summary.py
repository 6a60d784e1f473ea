"""Curves, sample pictures and the model card of a training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.cards.model_card import Measurement, ModelCardFacts, build_model_card, facts_of_model
from segzoo.cards.scores import SCORING
from segzoo.data import SegmentationDataset
from segzoo.data.decoding import decode_pair
from segzoo.errors import SegZooError
from segzoo.evaluation import Evaluation
from segzoo.images.drawing import contact_sheet, overlay, overlay_with_legend
from segzoo.images.reading import CorruptImageError, in_colour
from segzoo.images.writing import write_png
from segzoo.inference import Predictor
from segzoo.training.reports.curves import plot_curves


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str | None = None) -> str | None:
    """Draw the curves of a training with `plot_curves`; returns None, or the reason why it cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        plot_curves(history, path, title=title)
    except SegZooError as error:
        return str(error)
    return None


@torch.no_grad()
def draw_samples(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    dataset: SegmentationDataset,
    directory: Path,
    *,
    accelerator: Accelerator,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    count: int = 4,
) -> list[Path]:
    """Draw a few samples, spread over a data set: an overlay with legend for each, and a sheet of all with their
    truth. Broken ones are left out.

    Args:
        model: the model, as prepared by the accelerator or unwrapped.
        image_processor: the model's image processor.
        dataset: the data set that `segzoo.evaluation.evaluate` takes.
        directory: folder for the files; created if necessary.
        accelerator: the accelerator of this process.
        names, palette: name and RGB colour of each class, by id.
        count: largest number of samples.

    Returns:
        The files, ``samples.png`` first; none if all of the samples are broken.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = accelerator.unwrap_model(model)
    was_training = model.training
    model.eval()
    count = min(count, len(dataset))
    predictor = Predictor(model, image_processor, autocast=accelerator.autocast)
    dataset = copy.copy(dataset)
    may_be_broken, dataset.max_corrupt = dataset.max_corrupt > 0, 0  # no other sample takes the place of a broken one
    rows, captions, files = [], [], []
    try:
        for number in range(count):
            index = (2 * number + 1) * len(dataset) // (2 * count)
            try:
                item, row = dataset[index], dataset.dataset[index]
            except CorruptImageError:
                if not may_be_broken:
                    raise
                continue
            picture, _ = decode_pair(row["image"], None, image_name=item["name"], num_channels=dataset.num_channels)
            truth = item["labels"].numpy()
            predicted = predictor.label_map(picture, truth.shape).cpu().numpy()
            picture = Image.fromarray(in_colour(picture))
            stem = Path(item["name"]).stem
            files.append(directory / f"overlay_{number + 1}.png")
            write_png(files[-1], overlay_with_legend(picture, predicted, palette, names, title=stem[:40]))
            rows.append([picture, truth, predicted, overlay(picture, predicted, palette)])
            captions.append(stem)
    finally:
        model.train(was_training)
    headings = ["picture", "truth", "prediction", "overlay"]
    if not rows:
        return []
    write_png(directory / "samples.png", contact_sheet(rows, headings, palette, names, captions))
    return [directory / "samples.png", *files]


def describe_training(
    model: PreTrainedModel,
    facts: ModelCardFacts,
    scored: Sequence[tuple[str, Evaluation]] = (),
    *,
    processor: BaseImageProcessor | None = None,
    split: str = "validation",
) -> str:
    """The model card of a trained model, with the scores that were measured.

    Args:
        model: the trained model.
        facts: title, data set, settings of the training and whatever else is known. Measurements and what
            `facts_of_model` knows are added.
        scored: evaluations on the data set, each preceded by how images went through the model, in words.
        processor: the image processor that is saved with the model, if it is known.
        split: the split that was scored.

    Returns:
        The text of README.md.
    """
    measurements = [
        Measurement(
            value=evaluation.metrics[name],
            metric=name,
            dataset=facts.dataset or "unknown",
            dataset_id=facts.dataset_id,
            split=split,
            num_images=evaluation.num_images,
            protocol=f"{protocol}; {SCORING}",
        )
        for protocol, evaluation in scored
        for name in ("mean_iou", "mean_accuracy", "overall_accuracy")
        if 0 <= evaluation.metrics[name] <= 1  # NaN where no pixel counts
    ]
    measurements = [*facts.measurements, *measurements]
    return build_model_card(replace(facts, measurements=measurements, **facts_of_model(model, processor)))
