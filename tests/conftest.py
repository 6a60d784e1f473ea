import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch

import segzoo  # noqa: F401


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
