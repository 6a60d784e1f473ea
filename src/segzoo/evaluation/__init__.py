"""Evaluation: a streaming confusion matrix, the metrics that follow from it, and the `mean_iou` module for `evaluate`.

It sees label maps, never a model.
"""

import importlib
from pathlib import Path

_MODULES = {
    "confusion": ("ConfusionMatrix",),
    "metrics": ("format_table", "metrics_from_confusion"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def mean_iou_path() -> str:
    """Folder of the `mean_iou` module: `evaluate.load(segzoo.evaluation.mean_iou_path())` works without a network."""
    return str(Path(__file__).parent / "mean_iou")


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
