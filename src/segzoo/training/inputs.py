"""What a training begins with: pictures and classes, the model with its image processor, and ordered batches."""

from dataclasses import dataclass, replace
from functools import partial

from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from segzoo.configuration_segzoo import input_channels
from segzoo.data import SegmentationDataset
from segzoo.data.checks.validation_look import ValidationLook
from segzoo.data.classes import ClassFacts
from segzoo.data.row_counts import RowCounts
from segzoo.evaluation.scoring import check_views
from segzoo.training.batches import TrainingBatches, prepare_data
from segzoo.training.class_weights import class_weights, weights_in_words
from segzoo.training.folder import COUNTS, TRAIN_FILES, write_text
from segzoo.training.models import (
    BuiltModel,
    ModelRequest,
    NewModel,
    build_processor,
    crop_size_of,
    no_distortion,
    start_model,
)
from segzoo.training.options import RunOptions
from segzoo.training.pictures import Pictures, count_training_classes, load_pictures, picture_names
from segzoo.training.preparing import eval_protocols, validation_look
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.surroundings import Surroundings
from segzoo.universal import check_learns


@dataclass(frozen=True)
class LoadedModel:
    """The model of a training, and what belongs to it.

    Args:
        built: the model, and the weights that it begins with.
        processor: the image processor that it is tested and saved with.
        recipe: the recipe with crops and photometric distortion that fit them.
    """

    built: BuiltModel
    processor: BaseImageProcessor
    recipe: Recipe


def load_model(options: RunOptions, recipe: Recipe, classes: ClassFacts) -> LoadedModel:
    """Load or make the model that the options name.

    Args:
        options: options of the run.
        recipe: recipe of the training.
        classes: the classes of the data.

    Raises:
        SegZooError: the options name no model or more than one, or one that cannot be loaded or does not fit.
    """
    new = None
    if options.backbone is not None:
        new = NewModel(
            options.backbone,
            options.head,
            options.head_channels,
            options.auxiliary_channels,
            random_backbone=options.random_backbone,
        )
    request = ModelRequest(
        new=new,
        model_name_or_path=options.model_name_or_path,
        config_name=options.config_name,
        num_channels=options.num_channels,
        ignore_index=options.ignore_index,
        crop_size=recipe.crop_size,
        hub_options=options.hub_options,
        verify=options.verify,
    )
    built = start_model(classes, recipe.model_options, request)
    if (uncounted := classes.uncounted(options.ignore_index)) is not None:
        built = replace(built, notes=[*built.notes, f"warning: {uncounted}; give --ignore_index an id of no class"])
    if options.do_train:
        check_learns(built.model.config)
    processor = build_processor(
        built.model,
        classes,
        image_processor_name=options.image_processor_name or options.model_name_or_path,
        scale_size=recipe.eval_scale_size or recipe.scale_size,
        keep_ratio=recipe.keep_ratio,
        size_divisor=recipe.size_divisor,
        ignore_index=options.ignore_index,
        hub_options=options.hub_options,
    )
    if options.crop_by_model:
        recipe = replace(recipe, crop_size=crop_size_of(processor))
    return LoadedModel(built, processor, recipe.for_channels(input_channels(built.model.config)))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a training begins with.

    Args:
        recipe: the recipe, with what follows from the model and the data: crops, colours, class weights.
        pictures: the rows of the data and their classes.
        model: the model, as it is before the first step.
        backbone_weights: what the backbone of a new model begins with, in words; None: nothing, or no new model.
        processor: the image processor that the model is tested and saved with.
        batches: batches to train on.
        eval_data: pictures to evaluate on.
        look: the look at the validation pictures that goes on beside the training.
    """

    recipe: Recipe
    pictures: Pictures
    model: PreTrainedModel
    backbone_weights: str | None
    processor: BaseImageProcessor
    batches: TrainingBatches
    eval_data: SegmentationDataset
    look: ValidationLook

    @property
    def classes(self) -> ClassFacts:
        """The classes of the data."""
        return self.pictures.classes


def prepare_inputs(options: RunOptions, recipe: Recipe, here: Surroundings) -> Inputs:
    """Load data, classes, model and image processor, and check the first pictures in every process.

    Raises:
        SegZooError: data or model cannot be loaded, or do not fit each other or the recipe; a first picture is broken,
            or cannot be scored in the way that the training will score.
    """
    pictures = load_pictures(options, recipe, here.accelerator)
    asked, counts = _count_classes(options, recipe, pictures, here)
    loaded = load_model(options, asked, pictures.classes)
    model, recipe = loaded.built.model, loaded.recipe
    for note in loaded.built.notes:
        here.say(note)
    num_channels = input_channels(model.config)
    if asked.photometric_distortion and not recipe.photometric_distortion:
        here.say(f"note: {no_distortion(num_channels)}")
    data = prepare_data(
        options,
        recipe,
        pictures,
        loaded.processor,
        here.accelerator,
        num_channels=num_channels,
        counts=counts,
    )
    if options.do_train and recipe.train_fraction is not None and not data.batches.streaming:
        names = here.output_dir / TRAIN_FILES
        here.together(lambda: write_text(names, picture_names(pictures.train)), main_only=True)
    for check in data.looks:
        for line in here.together(check):
            here.say(line)
    if options.do_eval:
        for settings in filter(None, eval_protocols(model, loaded.processor, recipe)):
            here.together(partial(check_views, loaded.processor, data.eval_data, settings), main_only=True)
    look = validation_look(options, pictures.classes, data.eval_data, is_main=here.is_main)
    for line in here.together(look.first, main_only=True):
        here.say(line)
    return Inputs(
        recipe=recipe,
        pictures=pictures,
        model=model,
        backbone_weights=loaded.built.backbone_weights,
        processor=loaded.processor,
        batches=data.batches,
        eval_data=data.eval_data,
        look=look,
    )


def _count_classes(
    options: RunOptions, recipe: Recipe, pictures: Pictures, here: Surroundings
) -> tuple[Recipe, RowCounts | None]:
    """Count the classes if the recipe needs it; returns the recipe with the class weights that follow, and the counts."""
    rule = recipe.weights_rule
    if not options.do_train:
        return recipe if rule is None else replace(recipe, class_weights=None), None
    if rule is None and recipe.sampling != "balanced":
        return recipe, None
    rows = count_training_classes(options, pictures, here.accelerator, here.output_dir / COUNTS)
    if rule is not None:
        counts = rows.summed()
        weights = class_weights(counts, rule)
        recipe = replace(recipe, class_weights=weights)
        here.say(weights_in_words(weights, pictures.classes.names, rule, counts))
    return recipe, rows
