import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import segzoo  # noqa: F401


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
