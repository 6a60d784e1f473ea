"""The results of an evaluation as files: scores as table and JSON, counts, and the files that the Hub reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.cards.scores import METRIC_TITLES, Measurement, model_index_yaml
from segzoo.evaluation.pictures import titled
from segzoo.evaluation.score_log import ImageRow
from segzoo.files import json_text, slug, write_whole
from segzoo.images.drawing import confusion_picture
from segzoo.images.writing import write_png
from segzoo.metrics.scores import format_table, metrics_from_confusion
from segzoo.text import csv_cell, line_text, without_secrets

RESULTS, TABLE, IMAGES = "results.json", "results.txt", "images.csv"
CONFUSION = "confusion_matrix"
EVAL_RESULTS = ".eval_results"
MODEL_INDEX = "model-index.yaml"
FILES = (RESULTS, TABLE, IMAGES, MODEL_INDEX, *(f"{CONFUSION}.{kind}" for kind in ("npy", "csv", "png")))
SUMMARY = (
    "mean_iou",
    "mean_accuracy",
    "overall_accuracy",
    "overall_score",
    "mean_dice",
    "mean_f_score",
    "mean_precision",
    "mean_recall",
)
"""Names of the scores that are a single number, among those of `metrics_from_confusion`."""
ON_CARDS = ("mean_iou", "mean_accuracy", "overall_accuracy")
"""Names of the scores that every card shows, beside the main one."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The counts of an evaluation, and what was evaluated.

    Args:
        confusion: int64 array (num_outputs, num_outputs); rows truth, columns prediction. Outputs beyond the classes
            are wrong everywhere.
        names: names of the classes, by id; all outputs or the first ones.
        images: scores of each image; may be empty.
        num_images: number of images that were scored.
        model: folder or Hub name of the model.
        data: folder or Hub name of the data.
        dataset: the data set's title.
        dataset_id: its name on the Hub, if it has one.
        split: the part of the data set.
        protocol: how the scores were measured, in words.
        variant: the protocol in a few letters, for file names, such as ``"windows-512x512-341x341"``.
        settings: everything that the scores depend on, as JSON values.
        run: facts of this run that the scores do not depend on: date, number of processes, times.
        task_id: the task in the Hub's benchmark.
        metric: name of the main score, one of `METRIC_TITLES`.
        mean_over: what it is the mean over, in words; empty: nobody has named the data set, and the table has no line
            for the main score.
    """

    confusion: np.ndarray
    names: Sequence[str]
    images: Sequence[ImageRow] = ()
    num_images: int
    model: str
    data: str
    dataset: str
    dataset_id: str | None = None
    split: str
    protocol: str
    variant: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    task_id: str = "default"
    metric: str = "mean_iou"
    mean_over: str = ""

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """All scores, as `metrics_from_confusion` returns them."""
        return metrics_from_confusion(self.confusion, num_labels=len(self.names))

    @property
    def _of_classes(self) -> np.ndarray:
        """The counts of the classes, (num_labels, num_labels)."""
        return self.confusion[: len(self.names), : len(self.names)]

    def summary(self) -> dict[str, float]:
        """The scores that are a single number, 0 to 1 (NaN if no pixel counts), by the names in `SUMMARY`."""
        return {name: self.metrics[name] for name in SUMMARY}

    def header(self) -> str:
        """A text of three lines: model, data, protocol."""
        lines = (
            f"model: {self.model}",
            f"data: {self.dataset} ({self.data}), {self.split}, {self.num_images} images",
            f"protocol: {self.protocol}",
        )
        return "\n".join(map(line_text, lines))

    def table(self) -> str:
        """The scores as a text table, in percent: one class per line, the means below, and the main score if named."""
        table = format_table(self.metrics, self.names)
        if not self.mean_over:
            return table
        score = f"{METRIC_TITLES[self.metric]} {100 * self.metrics[self.metric]:.2f}"
        return f"{table}\n{line_text(f'{score}, the metric of {self.dataset}: the mean over {self.mean_over}')}"

    def to_dict(self) -> dict[str, Any]:
        """Everything except the scores of single images, as JSON values; scores are 0 to 1, NaN if no pixel counts."""
        truth, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        columns = [key for key in self.metrics if key.startswith("per_category_")]
        classes = [
            {
                "id": index,
                "name": str(name),
                **{key.removeprefix("per_category_"): float(self.metrics[key][index]) for key in columns},
                "pixels": int(truth[index]),
                "predicted_pixels": int(predicted[index]),
            }
            for index, name in enumerate(self.names)
        ]
        return {
            "model": without_secrets(self.model),
            "data": without_secrets(self.data),
            "dataset": without_secrets(self.dataset),
            "split": self.split,
            "num_images": self.num_images,
            "num_pixels": int(truth.sum()),
            "protocol": self.protocol,
            "metric": self.metric,
            "metrics": self.summary(),
            "classes": classes,
            "settings": dict(self.settings),
            "run": dict(self.run),
        }

    def write(self, folder: str | Path) -> list[Path]:
        """Write table, JSON, counts, their picture and the Hub's files into an existing folder.

        Returns:
            The files.

        Raises:
            OSError: the disk is full or the folder does not exist.
        """
        folder = Path(folder)
        written = [
            write_whole(folder / RESULTS, json_text(self.to_dict())),
            write_whole(folder / TABLE, f"{self.header()}\n\n{self.table()}\n"),
            write_whole(folder / f"{CONFUSION}.npy", lambda file: np.save(file, self.confusion)),
            write_whole(folder / f"{CONFUSION}.csv", _confusion_csv(self._of_classes, self.names)),
            self.write_eval_results(folder),
        ]
        if self.images:
            written.append(write_whole(folder / IMAGES, _images_csv(self.images)))
        written.append(
            write_whole(folder / MODEL_INDEX, model_index_yaml(self.measurements(), name=Path(self.model).name))
        )
        written.append(self._draw_confusion(folder / f"{CONFUSION}.png"))
        return written

    def _draw_confusion(self, path: Path) -> Path:
        score = f"{METRIC_TITLES[self.metric]} {100 * self.metrics[self.metric]:.2f} %"
        drawn = confusion_picture(self._of_classes, self.names, title=f"{self.dataset}, {self.split}: {score}")
        return write_png(path, titled(drawn, self.protocol, below=True))

    def measurements(self) -> list[Measurement]:
        """The scores that a model card shows, the main one first; scores that are NaN are left out."""
        return [
            Measurement(
                value=self.metrics[metric],
                metric=metric,
                dataset=self.dataset,
                dataset_id=self.dataset_id,
                split=self.split,
                num_images=self.num_images,
                protocol=self.protocol,
            )
            for metric in dict.fromkeys((self.metric, *ON_CARDS))
            if 0 <= self.metrics[metric] <= 1
        ]

    def write_eval_results(self, folder: str | Path) -> Path:
        """Write ``.eval_results/<data set>_<split>_<protocol>.yaml``, replacing a file of the same name.

        The format is the Hub's (https://huggingface.co/docs/hub/eval-results): one value, the main score from 0 to 1;
        its notes say how it was measured and give the other scores. The Hub shows it if the data set's id is that of a
        benchmark.
        """
        import yaml
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

        dataset_id = self.dataset_id or slug(self.dataset)
        others = ", ".join(
            f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.summary().items() if name != self.metric
        )
        title = "mean IoU" if self.metric == "mean_iou" else self.metric.replace("_", " ")
        entry = EvalResultEntry(
            dataset_id=dataset_id,
            task_id=self.task_id,
            value=self.metrics[self.metric],
            date=self.run.get("date"),
            notes=line_text(f"{title}, 0 to 1; {self.split}, {self.num_images} images; {self.protocol}; {others}"),
        )
        path = Path(folder) / EVAL_RESULTS / f"{slug(dataset_id)[:100]}_{slug(self.split)[:50]}_{self.variant}.yaml"
        path.parent.mkdir(exist_ok=True)
        return write_whole(path, yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, width=10_000))


def _confusion_csv(confusion: np.ndarray, names: Sequence[str]) -> str:
    return _csv(
        [["truth \\ prediction", *names], *([n, *row] for n, row in zip(names, confusion.tolist(), strict=True))]
    )


def _images_csv(images: Sequence[ImageRow]) -> str:
    return _csv([[f.name for f in fields(ImageRow)], *(astuple(row) for row in images)])


def _csv(rows: Sequence[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()
