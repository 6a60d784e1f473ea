"""The memory format of a training on a CPU: the faster of the two, by measurement."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from segzoo.configuration_segzoo import input_channels
from segzoo.errors import SegZooError
from segzoo.inference.faster import MEASURED_SIDE, is_ordinary
from segzoo.inference.timing import FORMATS, seconds_of_formats
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation
from segzoo.training.checkpoints import kept_settings
from segzoo.training.options import DEFAULTS
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.surroundings import Surroundings

LEAST_STEPS = 100
"""A training of fewer steps is over before a faster format has paid for its measurement."""

_GAIN = 0.95  # below what differs from one measurement to the next, the format stays


def take_memory_format(here: Surroundings, model: PreTrainedModel, recipe: Recipe, *, total_steps: int) -> None:
    """Put a model into the memory format of its training, after the faster one is found where that is to be measured.

    A resumed training goes on in the format that it began in. What is chosen is said in a line, and noted in ``here``.

    Args:
        here: the surroundings of the training; every process calls this.
        model: the model, which is changed in place.
        recipe: recipe of the training.
        total_steps: number of its steps; nothing is measured for fewer than `LEAST_STEPS`.
    """
    wanted = here.options.resume_from_checkpoint

    def choose() -> tuple[str, str] | None:
        before = None if wanted is None else kept_settings(here.output_dir, wanted).get("memory_format")
        if before in FORMATS:
            return before, f"memory format: {before}, as before"
        size = recipe.crop_size or DEFAULTS.crop_size
        return measured_format(
            model, size, begun=here.format_name, autocast=here.accelerator.mixed_precision == "bf16"
        )

    if here.measures_format and total_steps >= LEAST_STEPS:
        chosen = here.together(choose, main_only=True)
        if chosen is not None:
            here.format_name, line = chosen
            here.say(line)
    model.to(memory_format=here.memory_format)


def measured_format(
    model: PreTrainedModel,
    size: tuple[int, int],
    *,
    begun: str = "contiguous",
    autocast: bool = False,
    folder: Path | None = None,
) -> tuple[str, str] | None:
    """The memory format in which a model learns faster on this CPU, measured once and kept.

    The measurement takes two seconds or a few steps' time, in eval mode, so that running statistics stay as they are.

    Args:
        model: the model of the training, on a CPU; afterwards it is in an arbitrary one of the two formats.
        size: (height, width) of the training's crops, in pixels.
        begun: the format that stays unless the other is clearly faster.
        autocast: whether the training runs under bfloat16 autocast.
        folder: where measurements are kept; see `segzoo.inference.timing.seconds_of_formats`.

    Returns:
        ``"contiguous"`` or ``"channels_last"``, and a line for people; None where it is not measured: models of others,
        changed by hooks or adapters, not in float32, that learn nothing, or that refuse what is measured.
    """
    if not isinstance(model, SegZooForSemanticSegmentation) or not is_ordinary(model):
        return None
    if not any(weight.requires_grad for weight in model.parameters()):
        return None
    shape = (1, input_channels(model.config), *(min(side, MEASURED_SIDE) for side in size))
    pixel_values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        seconds = seconds_of_formats(model, pixel_values, training=True, autocast=autocast, folder=folder)
    except SegZooError:  # the training will say it
        return None
    finally:
        for module in in_training:
            module.training = True
    (other,) = FORMATS.keys() - {begun}
    chosen, other = (other, begun) if seconds[other] < _GAIN * seconds[begun] else (begun, other)
    return chosen, f"memory format: {chosen} ({seconds[chosen]:.2f} s measured, {other} {seconds[other]:.2f} s)"
