"""Metrics: a streaming confusion matrix, the scores that follow from it, and the `mean_iou` module for `evaluate`.

They see label maps, never a model.
"""

from pathlib import Path

from segzoo.lazy import lazy_attributes

_MODULES = {
    "confusion": ("ConfusionMatrix",),
    "scores": ("format_table", "metrics_from_confusion"),
}


def mean_iou_path() -> str:
    """Folder of the `mean_iou` module: `evaluate.load(segzoo.metrics.mean_iou_path())` works without a network."""
    return str(Path(__file__).parent / "mean_iou")


__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
