"""A tiny model folder and pictures for tests of labelling."""

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.hub import save_model_folder

NAMES = ["sky", "road", "car", "tree", "person"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model folder of five classes, for whole pictures of 64 pixels."""
    torch.manual_seed(0)
    config = SegZooConfig.tiny()
    config.id2label, config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
    processor = SegZooImageProcessor(size={"shortest_edge": 64})
    return save_model_folder(SegZooForSemanticSegmentation(config), processor, tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture
def make_picture():
    """Makes a picture of noise, another one for each seed."""

    def make(seed=0, width=90, height=60):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make
