"""Loading a model with its image processor from a folder or the Hub."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.utils.logging import disable_progress_bar

from segzoo import registration  # noqa: F401  the Auto classes know segzoo's models
from segzoo.configuration_segzoo import input_channels
from segzoo.errors import SegZooError, first_line
from segzoo.image_processing_segzoo import SegZooImageProcessor

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel


def load_model(source: str, device: str = "cpu") -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a model, in eval mode, and its image processor; this turns transformers' progress bars off for the process.

    Args:
        source: model folder, or its name on the Hub; any model for semantic segmentation that transformers loads.
        device: torch device for the weights, such as ``"cuda:1"``.

    Raises:
        SegZooError: no such model, a model of another kind, an image processor for other channels, or a device that is not there.
    """
    disable_progress_bar()
    if os.sep in source and not Path(source).is_dir():
        raise SegZooError(f"{source}: there is no such model folder; check the path")
    try:
        processor = AutoImageProcessor.from_pretrained(source)
        model = AutoModelForSemanticSegmentation.from_pretrained(source).eval()
    except SegZooError:
        raise
    except (OSError, ValueError) as error:
        reason = textwrap.shorten(first_line(error), 200, placeholder=" ...")
        raise SegZooError(
            f"{source}: this does not load as a segmentation model ({reason}); give a folder that segzoo wrote, or a Hub name"
        ) from error
    check_channels(model.config, processor, source)
    try:
        return model.to(torch.device(device)), processor
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise SegZooError(f"device {device} cannot be used here ({reason}); try cpu") from error


def check_channels(config: PreTrainedConfig, processor: BaseImageProcessor, source: str) -> None:
    """Refuse an image processor of segzoo that hands over other channels than a model takes.

    Args:
        config: of the model.
        processor: any; those of transformers do not say how many channels they are for.
        source: where the processor comes from, for the message.

    Raises:
        SegZooError: the numbers of channels differ.
    """
    expected = input_channels(config)
    if isinstance(processor, SegZooImageProcessor) and processor.num_channels != expected:
        raise SegZooError(
            f"{source}: the image processor reads pictures of {processor.num_channels} channels, and the model takes "
            f"{expected}; set num_channels in its preprocessor_config.json, with as many numbers in image_mean and image_std"
        )
