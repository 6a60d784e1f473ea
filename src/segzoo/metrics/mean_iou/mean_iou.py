"""Mean IoU for `evaluate.load`: same call and results as the stock metric, counted as the maps come in.

Between `add_batch` and `compute` only a table of (label, prediction) pairs is kept, because the number of classes and
the label rules are told at `compute`. Nothing goes through Arrow unless several processes share the metric.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import evaluate
import numpy as np

from segzoo.errors import SegZooError
from segzoo.metrics.confusion import ConfusionMatrix
from segzoo.metrics.scores import metrics_from_confusion

_DESCRIPTION = """
Intersection over union of predicted and true segmentation maps: per class the pixels that are right, divided by the
pixels that have the class in either map, over all images together; then the mean over the classes that occur.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of predicted maps of class ids, each (height, width); sizes may differ from map to map.
    references: list of true maps of class ids, each of its prediction's size.
    num_labels (int): number of classes.
    ignore_index (int): id in the references whose pixels do not count.
    nan_to_num (int, optional): written in place of NaN, after the means were taken.
    label_map (dict, optional): old id -> new id, applied to the references first, all at once.
    reduce_labels (bool): references hold 0 for "no class" and 1..N for the classes: 0 becomes 255, 1 becomes 0, ...
Returns:
    mean_iou, mean_accuracy, overall_accuracy (floats), per_category_iou, per_category_accuracy (arrays of num_labels;
    NaN where a class does not occur, and means skip it).
Raises:
    SegZooError (a ValueError): ids outside the classes, maps of different size.
"""

_CITATION = ""
_TABLE = 256
_KEYS = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy")


class _PairCounts:
    """Pixel counts per (label, prediction) for unknown classes: a table for ids below 256, a dict for others."""

    def __init__(self) -> None:
        self.table = ConfusionMatrix(_TABLE, ignore_index=None)
        self.others: dict[tuple[int, int], int] = {}

    def add(self, prediction: Any, reference: Any) -> None:
        prediction, reference = np.asarray(prediction), np.asarray(reference)
        if prediction.shape != reference.shape:
            raise SegZooError(
                f"A prediction has shape {prediction.shape}, its reference {reference.shape}: resize it."
            )
        if all(
            ids.dtype == np.uint8 or (ids.min(initial=0) >= 0 and ids.max(initial=0) < _TABLE)
            for ids in (prediction, reference)
        ):
            self.table.update(prediction, reference)
            return
        pairs, counts = np.unique(
            np.stack([reference.ravel(), prediction.ravel()]).astype(np.int64), axis=1, return_counts=True
        )
        for label, predicted, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            self.others[label, predicted] = self.others.get((label, predicted), 0) + count

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, predictions and pixel counts of all pairs that occur, as arrays of one length."""
        table = self.table.matrix.numpy()
        labels, predictions = np.nonzero(table)
        others = np.array([(*pair, count) for pair, count in self.others.items()], dtype=np.int64).reshape(-1, 3)
        return (
            np.concatenate([labels, others[:, 0]]),
            np.concatenate([predictions, others[:, 1]]),
            np.concatenate([table[labels, predictions], others[:, 2]]),
        )


def _score(
    counted: Any,
    num_labels: int,
    ignore_index: int,
    nan_to_num: float | None = None,
    label_map: Mapping[int, int] | None = None,
    reduce_labels: bool = False,
) -> dict[str, Any]:
    labels, predictions, counts = counted.pairs()
    if label_map is not None:
        label_map = {int(old): int(new) for old, new in label_map.items()}
        labels = np.array([label_map.get(label, label) for label in labels.tolist()], dtype=np.int64)
    if reduce_labels:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    valid = labels != ignore_index
    labels, predictions, counts = labels[valid], predictions[valid], counts[valid]
    for what, ids in (("references", labels), ("predictions", predictions)):
        outside = (ids < 0) | (ids >= num_labels)
        if outside.any():
            bad = ", ".join(f"{i} ({counts[ids == i].sum()} pixels)" for i in np.unique(ids[outside]).tolist()[:8])
            raise SegZooError(
                f"{what} hold ids outside 0..{num_labels - 1} (ignored: {ignore_index}): {bad}. Check num_labels, "
                "ignore_index and reduce_labels."
            )
    matrix = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), counts)
    scores = metrics_from_confusion(matrix)
    result = {key: np.float64(scores[key]) if np.isscalar(scores[key]) else scores[key] for key in _KEYS}
    if nan_to_num is not None:
        result = {key: np.nan_to_num(value, nan=nan_to_num) for key, value in result.items()}
    return result


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MeanIoU(evaluate.Metric):
    """Streaming mean IoU."""

    _counted = None

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        if self._counted is None:
            self._counted = _PairCounts()
        return self._counted

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one pair of maps (height, width)."""
        if self.num_process > 1:
            super().add(prediction=prediction, reference=reference, **kwargs)
        else:
            self._pairs().add(prediction, reference)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Count a list, or an array (batch, height, width), of predicted maps and of true ones."""
        if predictions is None or references is None or len(predictions) != len(references):
            given = [0 if maps is None else len(maps) for maps in (predictions, references)]
            raise SegZooError(f"{given[0]} predictions but {given[1]} references: they come in pairs.")
        if self.num_process > 1:
            super().add_batch(predictions=predictions, references=references, **kwargs)
        else:
            for prediction, reference in zip(predictions, references, strict=True):
                self._pairs().add(prediction, reference)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Score the maps given here, or those added before, and start afresh.

        Args:
            predictions, references: maps as in `add_batch`; None scores the maps added before.
            kwargs: `num_labels`, `ignore_index` and the other options in the metric's description.
        """
        if self.num_process > 1:
            return super().compute(predictions=predictions, references=references, **kwargs)
        try:
            if predictions is not None or references is not None:
                self.add_batch(predictions=predictions, references=references)
            if self._counted is None:
                raise SegZooError(
                    "No maps yet: give predictions and references, not empty, or call add_batch before compute."
                )
            return _score(self._counted, **kwargs)
        finally:
            self._counted = None

    def _compute(self, predictions: Any, references: Any, **kwargs: Any) -> dict[str, Any]:
        counted = _PairCounts()
        for prediction, reference in zip(predictions, references, strict=True):
            counted.add(prediction, reference)
        return _score(counted, **kwargs)
