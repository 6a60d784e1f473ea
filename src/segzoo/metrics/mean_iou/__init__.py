"""The `mean_iou` module for `evaluate.load`, which copies the file `mean_iou.py` of this folder."""

from pathlib import Path


def mean_iou_path() -> str:
    """This folder: ``evaluate.load(segzoo.metrics.mean_iou_path())`` works without a network."""
    return str(Path(__file__).parent)
