"""What is made ready between the loading of data and model and the first step."""

from dataclasses import replace

from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.compat import checkpoint_activations
from segzoo.data import SegmentationDataset
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.checks.validation_look import ValidationLook
from segzoo.data.classes import ClassFacts
from segzoo.inference import InferenceSettings
from segzoo.training.batches import TrainingBatches
from segzoo.training.frozen import freeze_backbone, hold_still
from segzoo.training.models import trained_in_float32
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.sync_norms import synchronise_batch_norms
from segzoo.training.unused import freeze_unused_parameters


def prepare_model(
    model: PreTrainedModel,
    options: RunOptions,
    recipe: Recipe,
    accelerator: Accelerator,
) -> tuple[PreTrainedModel, list[str]]:
    """Put a model into training mode, and set its frozen parts and its norms.

    Args:
        model: the model, which is changed.
        options: options of the run.
        recipe: recipe of the training.
        accelerator: the accelerator of the training, whose several processes share batch norms on GPUs.

    Returns:
        The model, and notes for the user, one line each.
    """
    notes = []
    if options.gradient_checkpointing:
        checkpoint_activations(model)
    if recipe.freeze_backbone:
        freeze_backbone(model)
    trained_in_float32(model)
    several = accelerator.num_processes > 1
    if several and (unused := freeze_unused_parameters(model, recipe.crop_size)):
        notes.append(
            f"note: {len(unused)} parameters are not trained, because no head reads them, such as {unused[0]}"
        )
    if several and options.sync_batch_norm and accelerator.device.type == "cpu":
        notes.append(
            "note: on CPUs batch norms are not synchronised: each process normalises its own part of the batch"
        )
    elif several and options.sync_batch_norm:
        model = synchronise_batch_norms(model)
    model.train()
    hold_still(model, backbone=recipe.freeze_backbone, norms=options.freeze_norms)
    return model, notes


def eval_protocols(
    model: PreTrainedModel, processor: BaseImageProcessor, recipe: Recipe
) -> tuple[InferenceSettings, InferenceSettings | None]:
    """How pictures are scored: as the model comes, and with the views of the recipe, if it has any."""
    own = InferenceSettings.of_model(model, processor)
    if recipe.eval_scales == (1.0,) and not recipe.eval_flip:
        return own, None
    return own, replace(own, scales=recipe.eval_scales, flip=recipe.eval_flip)


def validation_look(
    options: RunOptions, classes: ClassFacts, eval_data: SegmentationDataset, *, is_main: bool
) -> ValidationLook:
    """The look at the validation pairs of a training; only the main process looks, and only if it will evaluate.

    Without a training the evaluation comes at once, and says the same.
    """
    return ValidationLook(
        eval_data.dataset,
        LabelRule(len(classes.names), options.ignore_index, classes.reduce_labels),
        num_channels=eval_data.num_channels,
        max_corrupt=options.max_corrupt,
        enabled=is_main and options.do_train and options.do_eval,
    )


def describe_training(
    model: PreTrainedModel,
    classes: ClassFacts,
    data: TrainingBatches,
    *,
    num_eval: int,
    total_steps: int,
    accelerator: Accelerator,
    recipe: Recipe,
) -> str:
    """The line printed before the first step: model, classes, data, steps and precision."""
    amount = "a stream of" if data.streaming else data.num_pictures
    parts = f"{data.size} on each of {accelerator.num_processes} x {accelerator.device.type}"
    if data.accumulation > 1:
        parts += f", in {data.accumulation} passes"
    return (
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, {len(classes.names)} classes "
        f"({classes.source}){', 0 = no class' if classes.reduce_labels else ''}; {amount} pictures to train on, "
        f"{num_eval} to evaluate; {total_steps} steps of {data.pictures_a_step} pictures ({parts}), "
        f"{accelerator.mixed_precision} precision; recipe: {recipe.name}"
    )
