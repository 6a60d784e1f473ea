"""Loading a model with its image processor."""

import pytest
import torch

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.hub import save_model_folder
from segzoo.inference.loading import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    return str(save_model_folder(model, SegZooImageProcessor(do_resize=False), tmp_path_factory.mktemp("m") / "tiny"))


def test_model_and_processor(folder):
    model, processor = load_model(folder)
    assert isinstance(model, SegZooForSemanticSegmentation) and isinstance(processor, SegZooImageProcessor)
    assert not model.training and model.device == torch.device("cpu")


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(SegZooError, match="no such model folder"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(SegZooError, match="does not load as a segmentation model"):
        load_model(str(tmp_path))
    with pytest.raises(SegZooError, match="device nonsense cannot be used here"):
        load_model(folder, "nonsense")
