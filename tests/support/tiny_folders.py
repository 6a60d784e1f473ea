"""Data and a model with which a training takes seconds."""

from pathlib import Path

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data.scenes import SCENES, write_scenes


def make_scenes(folder: Path) -> Path:
    """Ten pictures to train on and five to evaluate on."""
    return write_scenes(folder, num_train=10, num_validation=5, size=(48, 64))


def make_model(folder: Path) -> Path:
    """A tiny model for the classes of the scenes, with its image processor."""
    config = SegZooConfig.tiny()
    config = SegZooConfig(**{**config.to_dict(), "id2label": SCENES.id2label, "palette": None})
    SegZooForSemanticSegmentation(config).save_pretrained(folder)
    SegZooImageProcessor(do_resize=False).save_pretrained(folder)
    return folder
