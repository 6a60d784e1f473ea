"""What a training leaves for people: curve, sample pictures, and the facts of the model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from segzoo.data import collate_evaluation
from segzoo.data.decoding import decode_pair
from segzoo.errors import SegZooError
from segzoo.model_card import Measurement, ModelCardFacts, build_model_card, facts_of_model
from segzoo.training.evaluation import Evaluation, predict_label_maps
from segzoo.visualization import contact_sheet, overlay, overlay_with_legend, plot_curves


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str | None = None) -> str | None:
    """Draw loss, learning rate and mIoU over the steps; returns what is in the way, such as matplotlib missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        plot_curves(history, path, title=title)
    except SegZooError as error:
        return str(error)
    return None


@torch.no_grad()
def draw_samples(
    model,
    image_processor,
    dataset,
    directory: Path,
    *,
    accelerator,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    count: int = 4,
) -> list[Path]:
    """Pictures of a few samples, spread over a data set: one overlay with legend each, and all with their truth.

    Args:
        model: as prepared by the accelerator, or bare.
        image_processor: of the model.
        dataset: the `segzoo.data.SegmentationDataset` that `segzoo.training.evaluate` takes.
        directory: where to; made if need be.
        accelerator: an `accelerate.Accelerator`.
        names, palette: of the classes.
        count: how many samples at most.

    Returns:
        The files: ``samples.png`` first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = accelerator.unwrap_model(model)
    was_training = model.training
    model.eval()
    count = min(count, len(dataset))
    rows, captions, files = [], [], []
    try:
        for number in range(count):
            index = (2 * number + 1) * len(dataset) // (2 * count)
            item, row = dataset[index], dataset.dataset[index]
            picture, _ = decode_pair(row["image"], None, image_name=item["name"])
            batch = collate_evaluation([item])
            batch["pixel_values"] = batch["pixel_values"].to(accelerator.device)
            with accelerator.autocast():
                label_map = predict_label_maps(model, image_processor, batch, batch["target_sizes"])[0]
            picture, truth, predicted = Image.fromarray(picture), item["labels"].numpy(), label_map.numpy()
            stem = Path(item["name"]).stem
            files.append(directory / f"overlay_{number + 1}.png")
            overlay_with_legend(picture, predicted, palette, names, title=stem[:40]).save(files[-1])
            rows.append([picture, truth, predicted, overlay(picture, predicted, palette)])
            captions.append(stem)
    finally:
        model.train(was_training)
    headings = ["picture", "truth", "prediction", "overlay"]
    contact_sheet(rows, headings, palette, names, captions).save(directory / "samples.png")
    return [directory / "samples.png", *files]


def describe_training(
    model,
    evaluation: Evaluation,
    *,
    title: str,
    dataset: str,
    dataset_id: str | None = None,
    split: str = "validation",
    inference: str,
    settings: Mapping[str, Any],
    base_model: str | None = None,
    synthetic: bool = False,
    repo_id: str | None = None,
) -> str:
    """The model card of a trained model, with the scores that were measured.

    Args:
        model: the model.
        evaluation: the last evaluation.
        title, dataset, dataset_id, base_model, synthetic, repo_id: as in `segzoo.model_card.ModelCardFacts`.
        split: that was scored.
        inference: how images go through the model, in words.
        settings: of the training, by name.
    """
    metrics = evaluation.metrics
    measurements = [
        Measurement(
            value=metrics[name],
            metric=name,
            dataset=dataset,
            dataset_id=dataset_id,
            split=split,
            num_images=evaluation.num_images,
            protocol=f"{inference}; scored at each image's original size, one confusion matrix over all images",
        )
        for name in ("mean_iou", "mean_accuracy", "overall_accuracy")
        if 0 <= metrics[name] <= 1  # NaN where no pixel counts
    ]
    own = facts_of_model(model) if hasattr(model, "decode_heads") else {}
    facts = ModelCardFacts(
        title=title,
        dataset=dataset,
        dataset_id=dataset_id,
        measurements=measurements,
        inference=inference,
        training=settings,
        base_model=base_model,
        synthetic=synthetic,
        repo_id=repo_id,
        **own,
    )
    return build_model_card(facts)


def describe_inference(model, processor) -> str:
    """How an image goes through a model, in words for the card."""
    size = dict(processor.size) if getattr(processor, "do_resize", False) and processor.size else None
    if size is None:
        scale = "single scale, images at their own size"
    elif size.get("shortest_edge") is not None:
        limit = f", longer side at most {size['longest_edge']}" if size.get("longest_edge") else ""
        scale = f"single scale, shorter side {size['shortest_edge']}{limit}"
    else:
        scale = f"single scale, images resized to {size['height']}x{size['width']} (height x width)"
    window = getattr(model.config, "window_size", None)
    if window is None:
        return f"{scale}, whole image, no flip"
    stride = model.config.window_stride
    return f"{scale}, windows of {window[0]}x{window[1]} with step {stride[0]}x{stride[1]}, no flip"
