"""Model folders that earlier versions wrote keep working; `old_folders/make.py` tells how they were made."""

from pathlib import Path

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file
from support.versions import TRANSFORMERS
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

OLD = Path(__file__).parent / "old_folders"
COMPOSITES = sorted(path.stem for path in OLD.glob("*.safetensors"))


def test_all_folders_are_there():
    assert len(COMPOSITES) == 9


@pytest.mark.parametrize("name", COMPOSITES)
def test_an_old_model_folder_gives_equal_numbers(name):
    if name.startswith("dinov2") and Version("5.18") > TRANSFORMERS:
        pytest.skip("the folder was written by transformers 5.18 or newer, which named DINOv2's weights anew")
    model, report = AutoModelForSemanticSegmentation.from_pretrained(OLD / name, output_loading_info=True)
    assert not any(report.values()), report
    pixels = torch.sin(torch.arange(2 * 3 * 64 * 96, dtype=torch.float64) * 0.37).view(2, 3, 64, 96)
    torch.manual_seed(1)
    with torch.no_grad():
        outputs = model.eval().double()(pixels, labels=torch.zeros(2, 64, 96, dtype=torch.int64))
    expected = load_file(OLD / f"{name}.safetensors")
    torch.testing.assert_close(outputs.logits.float(), expected["logits"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs.loss.float(), expected["loss"], rtol=1e-6, atol=1e-6)
    assert model.config.id2label == {0: "sky", 1: "road", 2: "tree"}
    assert AutoImageProcessor.from_pretrained(OLD / name).size == {"height": 64, "width": 96}
