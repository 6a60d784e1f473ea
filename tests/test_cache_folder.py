"""The folder in which tests keep what is measured and downloaded."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from huggingface_hub import constants

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.heads import FCNHeadConfig
from segzoo.inference.timing import seconds_of_formats


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*")) if folder.is_dir() else set()


def test_tests_leave_the_users_own_folder_alone():
    own = Path.home() / ".cache" / "huggingface" / "segzoo"
    before, used = files(own), Path(constants.HF_HOME)
    assert used.name.startswith("segzoo_tests_") and not own.is_relative_to(used)
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), FCNHeadConfig(in_index=[3], channels=4), num_labels=2)
    model = SegZooForSemanticSegmentation(config).eval()
    kept = files(used / "segzoo" / "timing")
    seconds_of_formats(model, torch.zeros(1, 3, 32, 32))
    assert len(files(used / "segzoo" / "timing") - kept) == 1
    assert files(own) == before
    # So it is in the programs that tests start, whose environment is that of the tests.
    code = "from huggingface_hub import constants; print(constants.HF_HOME)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == os.environ["HF_HOME"] == str(used)
