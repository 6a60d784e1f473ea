"""Measured scores in a model card: the model-index that the Hub reads, and a table that people read.

All scores are fractions: 0.479, printed as 47.90 %.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from segzoo.errors import SegZooError, one_line
from segzoo.files import slug
from segzoo.text import MOST_IN_NAME, line_text, markdown_text, shorten

TASK = "image-segmentation"
METRIC_TITLES = {
    "mean_iou": "mIoU",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "pixel accuracy",
    "mean_dice": "mDice",
}
SCORING = "scored at each image's original size, one confusion matrix over all images"
"""How segzoo scores, in words; the end of the text of a protocol."""

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_BEFORE_NEXT_KEY = re.compile(r"(?:^(?:#.*|[ \t]*)\n)*\Z", re.MULTILINE)
_BYTE_ORDER_MARK = "\ufeff"
_BLOCK_BEGIN = "<!-- measured scores: segzoo evaluate --write_card replaces what stands here -->"
_BLOCK_END = "<!-- end of measured scores -->"
_MOST_IN_CELL = 2000  # characters; the class weights of a thousand classes are longer
_NOT_MEASURED = "Nobody has measured a score with this folder yet."


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One score that was measured with the model in its folder.

    Args:
        value: the score, 0 to 1.
        dataset: the data set's title.
        protocol: how the score was measured, in words: sizes, windows, scales, flips, what is averaged.
        metric: ``"mean_iou"``, ``"mean_accuracy"``, ``"overall_accuracy"`` or another name.
        split: the part of the data set.
        dataset_id: the data set's name on the Hub, if it has one.
        num_images: number of images that were scored.

    Raises:
        SegZooError: ``value`` is not between 0 and 1.
    """

    value: float
    dataset: str
    protocol: str
    metric: str = "mean_iou"
    split: str = "validation"
    dataset_id: str | None = None
    num_images: int | None = None

    def __post_init__(self) -> None:
        check_fraction("value", self.value)

    def _dataset(self) -> dict[str, str]:
        """The data set in the form of a model-index."""
        name = shorten(line_text(self.dataset), MOST_IN_NAME)
        kind = shorten(line_text(self.dataset_id), MOST_IN_NAME) if self.dataset_id else slug(name)
        return {"name": name, "type": kind, "split": line_text(self.split)}

    def _metric(self) -> dict[str, Any]:
        """The score in the form of a model-index; the protocol is one of the metric's arguments."""
        arguments = {"protocol": line_text(self.protocol), "num_images": self.num_images}
        return {
            "type": self.metric,
            "value": float(self.value),
            "name": METRIC_TITLES.get(self.metric, self.metric),
            "args": {key: value for key, value in arguments.items() if value is not None},
        }


def add_measurements(card: str, measurements: Sequence[Measurement], *, name: str) -> str:
    """Add scores to a card: to the model-index in its metadata, and to a table for people.

    A score replaces an earlier one of the same metric, data set, split, number of images and protocol. Everything else
    stays exactly as it is: the other metadata with their comments, other people's results, the text.

    Args:
        card: text of a README.md, with or without metadata.
        measurements: the scores to add.
        name: the model's name, for a card without a model-index.

    Returns:
        The new text of the README.md.

    Raises:
        SegZooError: the metadata are not valid YAML, or their model-index does not have the Hub's form.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    mark = _BYTE_ORDER_MARK if card.startswith(_BYTE_ORDER_MARK) else ""
    card = card.removeprefix(mark)
    match = _FRONT_MATTER.match(card)
    front, body = (match["yaml"].replace("\r\n", "\n"), card[match.end() :]) if match else ("", newline + card)
    index = _model_index(front, name)
    for measurement in measurements:
        _merge(index[0]["results"], measurement)
    front = _with_model_index(front, index)
    block = measured_block(_measured_rows(index)).replace("\n", newline)
    return mark + f"---\n{front}---\n".replace("\n", newline) + _with_block(body, block, newline)


def model_index_yaml(measurements: Sequence[Measurement], *, name: str) -> str:
    """A ``model-index`` with these scores as YAML, to be pasted into the metadata of a card elsewhere."""
    index = _model_index("", name)
    for measurement in measurements:
        _merge(index[0]["results"], measurement)
    return _dump({"model-index": index})


def _model_index(front: str, name: str) -> list[dict[str, Any]]:
    """The model-index in the YAML ``front``; a new one if there is none."""
    try:
        metadata = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        raise SegZooError(
            f"the metadata between the --- lines are no valid YAML ({one_line(error)}); mend them first"
        ) from error
    if not isinstance(metadata, dict):
        raise SegZooError(
            "what stands between the --- lines are no metadata, which are lines of a key and a value; mend them first"
        )
    index = metadata.get("model-index") or [{"name": shorten(line_text(name), MOST_IN_NAME), "results": []}]
    try:
        index[0].setdefault("results", [])
        for result in index[0]["results"]:
            result["task"], result["dataset"], result["metrics"][:]  # noqa: B018  a missing one raises
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise SegZooError("the model-index in the metadata is not built as the Hub wants it; mend it first") from error
    return index


def _merge(results: list[dict[str, Any]], measurement: Measurement) -> None:
    """Put a score into the results of a model-index, replacing an earlier one of the same kind."""
    dataset, metric = measurement._dataset(), measurement._metric()
    for result in results:
        if result["task"].get("type") == TASK and result["dataset"] == dataset:
            for position, held in enumerate(result["metrics"]):
                if held.get("type") == metric["type"] and held.get("args") == metric["args"]:
                    result["metrics"][position] = metric
                    return
            result["metrics"].append(metric)
            return
    results.append({"task": {"type": TASK}, "dataset": dataset, "metrics": [metric]})


def _with_model_index(front: str, index: list[dict[str, Any]]) -> str:
    """The metadata ``front`` with this model-index; every other line stays where the change can be made in its lines."""
    if front and not front.endswith("\n"):
        front += "\n"
    wanted = {**(yaml.safe_load(front) or {}), "model-index": index}
    start, end = _place_of_model_index(front)
    changed = front[:start] + _dump({"model-index": index}) + front[end:]
    try:
        kept = yaml.safe_load(changed) == wanted
    except yaml.YAMLError:
        kept = False
    # Metadata in braces, or with anchors in the model-index, are written anew.
    return changed if kept else _dump(wanted)


def _place_of_model_index(front: str) -> tuple[int, int]:
    """Where the model-index begins and ends in the YAML ``front``; its end, twice, if there is none."""
    root = yaml.compose(front, Loader=yaml.SafeLoader)
    keys = [] if root is None else [key for key, _ in root.value]
    starts = [key.start_mark.index for key in keys] + [len(front) if root is None else root.end_mark.index]
    for key, start, end in zip(keys, starts, starts[1:], strict=False):
        if key.value == "model-index":
            # Empty lines and comments before the next key are the next key's.
            return start, start + len(_BEFORE_NEXT_KEY.sub("", front[start:end]))
    return len(front), len(front)


def _dump(metadata: dict[str, Any]) -> str:
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)


def _measured_rows(index: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Scores in a model-index that have a protocol: data and protocol in words -> title of metric -> score."""
    rows: dict[str, dict[str, float]] = {}
    for result in index[0]["results"]:
        for metric in result["metrics"]:
            arguments = metric.get("args")
            ours = isinstance(arguments, dict) and "protocol" in arguments and isinstance(metric["value"], int | float)
            if ours:
                count = arguments.get("num_images")
                images = f", {count} images" if count else ""
                data = f"{result['dataset'].get('name', '')} {result['dataset'].get('split', '')}".strip()
                row = rows.setdefault(f"{data}{images}; {arguments['protocol']}", {})
                row[metric.get("name", metric["type"])] = metric["value"]
    return rows


def measured_block(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The part of a card with the table of measured scores, or with a sentence that there are none.

    Args:
        rows: data and protocol in words -> title of each metric -> score (0 to 1); each entry is one line of the
            table.
    """
    titles = list(dict.fromkeys(title for row in rows.values() for title in row))
    table = [_NOT_MEASURED]
    if titles:
        table = [_line("measured with this folder, %", *titles), "|" + "---|" * (1 + len(titles))]
        for where, row in rows.items():
            table.append(_line(where, *(percent(row[title]) if title in row else "" for title in titles)))
    return "\n".join([_BLOCK_BEGIN, "", *table, "", _BLOCK_END])


def _line(*cells: str) -> str:
    return "| " + " | ".join(map(table_cell, cells)) + " |"


def _with_block(body: str, block: str, newline: str) -> str:
    """The text with the table of measured scores: replacing the old table, else below "## Scores", else at the end."""
    begin, end = body.find(_BLOCK_BEGIN), body.find(_BLOCK_END)
    if 0 <= begin < end:
        return body[:begin] + block + body[end + len(_BLOCK_END) :]
    heading = re.search(r"^## Scores[ \t]*\r?\n", body, re.MULTILINE)
    if heading:
        return f"{body[: heading.end()]}{newline}{block}{newline}{body[heading.end() :]}"
    return f"{body.rstrip()}{newline}{newline}## Measured scores{newline}{newline}{block}{newline}"


def check_fraction(name: str, value: float | None) -> None:
    """Check that a score, if there is one, is a fraction between 0 and 1, not a percentage."""
    if value is not None and not 0 <= value <= 1:
        raise SegZooError(f"{name}={value} is not between 0 and 1; give fractions, 0.479 for 47.9 %")


def percent(value: float) -> str:
    """A fraction as a percentage with two decimals, without the percent sign."""
    return f"{100 * value:.2f}"


def table_cell(value: object) -> str:
    """The value as words for a cell of a Markdown table; what is very long is cut in the middle."""
    return markdown_text(shorten(one_line(value), _MOST_IN_CELL))
