"""Scores from a confusion matrix. Rows are true classes, columns predicted ones, entries are pixel counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segzoo.errors import SegZooError
from segzoo.text import MOST_IN_NAME, line_text, shorten


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, or NaN where whole is 0, without a warning."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN, or NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def metrics_from_confusion(matrix: Any, *, beta: float = 1.0, num_labels: int | None = None) -> dict[str, Any]:
    """All scores of a confusion matrix.

    IoU and Dice are NaN for a class that occurs neither in truth nor in prediction, accuracy and recall for a class
    without true pixels, precision for a class that is never predicted; means skip NaN. The F-score is NaN where
    precision and recall are both 0 or one of them is NaN, as in mmsegmentation.

    Args:
        matrix: pixel counts (num_labels, num_labels), tensor or array; rows are true classes, columns predicted ones.
        beta: weight of recall over precision in the F-score.
        num_labels: only the first ``num_labels`` ids are classes, as where a model has more outputs than its data
            set has classes; predictions beyond are wrong, and have no scores. None: all are.

    Returns:
        floats in 0..1 `mean_iou`, `mean_accuracy`, `overall_accuracy`, `overall_score` (the mean of mean IoU and
        overall accuracy, by which MIT's scene-parsing challenge ranks), `mean_dice`, `mean_precision`, `mean_recall`
        and `mean_f_score`, and float64 arrays (num_labels,) `per_category_iou`, `per_category_accuracy`,
        `per_category_dice`, `per_category_precision`, `per_category_recall` and `per_category_f_score`.

    Raises:
        SegZooError: the matrix is not square.
    """
    counts = matrix.detach().cpu().numpy() if hasattr(matrix, "detach") else np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise SegZooError(f"A confusion matrix has as many rows as columns; this one has shape {counts.shape}.")
    counts = counts.astype(np.float64)
    intersection, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _ratio(intersection, predicted), _ratio(intersection, truth)
    per_category = {
        "iou": _ratio(intersection, truth + predicted - intersection),
        "accuracy": recall,
        "dice": _ratio(2 * intersection, truth + predicted),
        "precision": precision,
        "recall": recall.copy(),
        "f_score": _ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall),
    }
    per_category = {name: values[:num_labels] for name, values in per_category.items()}
    mean_iou, overall_accuracy = _mean(per_category["iou"]), float(_ratio(intersection.sum(), truth.sum()))
    return {
        "mean_iou": mean_iou,
        "mean_accuracy": _mean(per_category["accuracy"]),
        "overall_accuracy": overall_accuracy,
        "overall_score": (mean_iou + overall_accuracy) / 2,
        "mean_dice": _mean(per_category["dice"]),
        "mean_precision": _mean(per_category["precision"]),
        "mean_recall": _mean(per_category["recall"]),
        "mean_f_score": _mean(per_category["f_score"]),
        **{f"per_category_{name}": values for name, values in per_category.items()},
    }


def format_table(result: Mapping[str, Any], names: Mapping[int, str] | Sequence[str] | None = None) -> str:
    """Scores as a table to read: one class per line, in percent, means below.

    Args:
        result: what `metrics_from_confusion` or `ConfusionMatrix.compute` returned.
        names: class names by id; None shows the ids.

    Returns:
        text of several lines, in which "-" stands for NaN.
    """
    columns = {
        "IoU": "iou",
        "accuracy": "accuracy",
        "Dice": "dice",
        "F-score": "f_score",
        "precision": "precision",
        "recall": "recall",
    }
    count = len(result["per_category_iou"])
    names = [str(i) if names is None else shorten(line_text(names[i]), MOST_IN_NAME) for i in range(count)]
    width = max([len("all classes"), *(len(name) for name in names)])

    def line(name: str, values: Sequence[float]) -> str:
        cells = ("-" if np.isnan(value) else f"{100 * value:.2f}" for value in values)
        return name.ljust(width) + "".join(cell.rjust(11) for cell in cells)

    header = "class".ljust(width) + "".join(title.rjust(11) for title in columns)
    rows = [line(names[i], [result[f"per_category_{key}"][i] for key in columns.values()]) for i in range(count)]
    means = line("all classes", [result[f"mean_{key}"] for key in columns.values()])
    pixels = (
        f"pixel accuracy {100 * result['overall_accuracy']:.2f}, overall score {100 * result['overall_score']:.2f}"
    )
    return "\n".join([header, "-" * len(header), *rows, "-" * len(header), means, pixels])
