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
from segzoo.errors import SegZooError, first_line

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


def load_model(source: str, device: str = "cpu") -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a model, in eval mode, and its image processor; this turns transformers' progress bars off for the process.

    Args:
        source: model folder, or its name on the Hub; any model for semantic segmentation that transformers loads.
        device: torch device for the weights, such as ``"cuda:1"``.

    Raises:
        SegZooError: no such model, a model of another kind, or a device that is not there.
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
    try:
        return model.to(torch.device(device)), processor
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise SegZooError(f"device {device} cannot be used here ({reason}); try cpu") from error
