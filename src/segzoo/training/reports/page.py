"""The report of a training: one HTML page that needs nothing but the pictures beside it."""

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from segzoo.files import write_whole
from segzoo.metrics.scores import metrics_from_confusion
from segzoo.progress import duration
from segzoo.text import MOST_IN_NAME, html_text, line_text, python_string, shorten
from segzoo.training.folder import FIGURES, REPORT
from segzoo.training.reports.style import STYLE

CURVES, SAMPLES, CONFUSION = "curves.png", "samples.png", "confusion_matrix.png"
_LONG = 40  # classes; longer tables fold, with the best and worst above them
_ENDS = 8
_MOST_IN_FACT = 2000  # characters of a setting


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The contents of the page. Texts may hold any characters; the page escapes them.

    Args:
        title: the model's name for people.
        summary: a sentence or two about the model: backbone, head, parameters.
        dataset: title of the data.
        split: the part of the data that was scored.
        num_images: number of images that were scored.
        protocol: how images went through the model, in words.
        confusion: pixel counts (num_labels, num_labels), rows truth, columns prediction; tensor or array.
        names: names of the classes, by id.
        palette: a colour (red, green, blue; 0..255) for each class.
        step: the step after which the scores were taken; None: the last one.
        best: ``step`` and ``mean_iou`` (0 to 1) of the best evaluation, or None.
        other_scores: further evaluations of the same model: their protocol in words, and the mean IoU (0 to 1).
        history: the entries of ``training_log.jsonl``: ``step`` and any of ``loss``, ``images_per_second``,
            ``waiting_for_data``.
        seconds: duration of the training.
        recipe: the resolved settings by name, as JSON values; ``name`` and ``source`` are shown above the others.
        data: facts and counts of the data, by name ("training images": 367).
        hardware: facts by name, from ``segzoo.training.environment.hardware_facts``.
        software: versions by name, from ``segzoo.training.environment.software_versions``.
        model_name: folder or Hub name in the example of how to load the model.
        synthetic: the pictures were drawn by a program; the page then warns that the scores say nothing about
            photographs.
        notes: sentences that a reader must know, such as pictures that were left out.
    """

    title: str
    summary: str = ""
    dataset: str
    split: str = "validation"
    num_images: int
    protocol: str
    confusion: Any
    names: Sequence[str]
    palette: Sequence[Sequence[int]]
    step: int | None = None
    best: Mapping[str, Any] | None = None
    other_scores: Sequence[tuple[str, float]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    seconds: float
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, Any] = field(default_factory=dict)
    model_name: str
    synthetic: bool = False
    notes: Sequence[str] = ()


def write_report_page(directory: str | Path, report: TrainingReport) -> Path:
    """Write ``report.html`` into the output folder of a training, whole or not at all.

    The page shows those of ``figures/curves.png``, ``samples.png``, ``overlay_<n>.png`` and ``confusion_matrix.png``
    that exist, so draw them first.

    Args:
        directory: the output folder.
        report: the contents of the page.

    Returns:
        The path of the page.

    Raises:
        SegZooError: the confusion matrix is not square.
        OSError: the folder cannot be written to.
    """
    directory = Path(directory)
    return write_whole(directory / REPORT, report_page(report, figures=directory / FIGURES))


def report_page(report: TrainingReport, figures: Path) -> str:
    """The HTML of the page; it refers to the pictures that exist in the folder ``figures``."""
    metrics = metrics_from_confusion(report.confusion)
    overlays = sorted(figures.glob("overlay_*.png"), key=lambda path: (len(path.name), path.name))
    sections = {
        "Training curves": _figure(figures / CURVES, "Loss, learning rate and validation mIoU over the steps"),
        "Classes": _classes(report, metrics),
        "Sample predictions": _samples(figures / SAMPLES, overlays),
        "Confusion matrix": _figure(
            figures / CONFUSION,
            "Rows are true classes, columns what their pixels were labelled as, in percent of the true class's pixels",
        ),
        "Use it": _usage(report),
        "Data": _facts(report.data),
        "Recipe": _recipe(report),
        "Time and machine": _facts(_speed(report) | dict(report.hardware)),
        "Software": _facts(report.software),
    }
    present = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in present)
    body = "\n".join(f'<section id="{_anchor(t)}">\n<h2>{t}</h2>\n{text}\n</section>' for t, text in present.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_name(report.title)}: training report</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="kind">Training report</p>
<h1>{_name(report.title)}</h1>
{_paragraph(report.summary)}
{_warnings(report)}
{_headline(report, metrics)}
<nav aria-label="sections">{links}</nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _headline(report: TrainingReport, metrics: Mapping[str, Any]) -> str:
    tiles = "".join(
        f"<div><dt>{title}</dt><dd>{_percent(metrics[key])}<small> %</small></dd></div>"
        for title, key in (
            ("mean IoU", "mean_iou"),
            ("pixel accuracy", "overall_accuracy"),
            ("mean accuracy", "mean_accuracy"),
            ("mean Dice", "mean_dice"),
        )
    )
    when = f"after step {report.step:,}" if report.step is not None else "after the last step"
    where = f"{_name(report.dataset)}, {_name(report.split)}: {report.num_images:,} images, {when}. {html_text(report.protocol)}."
    best = ""
    if report.best is not None and report.best["step"] != report.step:
        best = f" The best evaluation was {_percent(report.best['mean_iou'])} % after step {report.best['step']:,}."
    others = "".join(
        f'\n<p class="protocol">{_percent(score)} % mean IoU otherwise: {html_text(protocol)}.</p>'
        for protocol, score in report.other_scores
    )
    return f'<dl class="scores">{tiles}</dl>\n<p class="protocol">{where}{best}</p>{others}'


def _warnings(report: TrainingReport) -> str:
    notes = list(report.notes)
    if report.synthetic:
        notes.insert(
            0, "Synthetic data: the pictures were drawn by a program, and the scores say nothing about photographs."
        )
    return "\n".join(f'<p class="note">{html_text(note)}</p>' for note in notes)


def _classes(report: TrainingReport, metrics: Mapping[str, Any]) -> str:
    iou = metrics["per_category_iou"]
    known = [index for index in np.argsort(-iou, kind="stable").tolist() if not math.isnan(iou[index])]
    everything = _class_table(report, metrics, range(len(report.names)))
    if len(report.names) <= _LONG:
        return everything
    ends = "".join(
        f"<div><h3>{title}</h3>{_class_table(report, metrics, chosen, short=True)}</div>"
        for title, chosen in (("Highest IoU", known[:_ENDS]), ("Lowest IoU", known[::-1][:_ENDS]))
    )
    summary = f"<summary>All {len(report.names)} classes</summary>"
    return f'<div class="pair">{ends}</div>\n<details>{summary}\n{everything}\n</details>'


def _class_table(
    report: TrainingReport, metrics: Mapping[str, Any], indices: Sequence[int], *, short: bool = False
) -> str:
    columns = {"accuracy": "accuracy", "precision": "precision", "Dice": "dice"} if not short else {}
    counts = report.confusion.tolist()
    pixels = [sum(row) for row in counts]
    total = max(sum(pixels), 1)
    rows = []
    for index in indices:
        colour = ",".join(str(int(value)) for value in report.palette[index][:3])
        name = f'<span class="swatch" style="background:rgb({colour})"></span>{_name(report.names[index])}'
        iou = metrics["per_category_iou"][index]
        width = 0.0 if math.isnan(iou) else 100 * iou
        bar = f'<span class="bar"><i style="width:{width:.1f}%"></i></span><b>{_percent(iou)}</b>'
        values = (metrics[f"per_category_{key}"][index] for key in columns.values())
        cells = "".join(f'<td class="more">{_percent(value)}</td>' for value in values)
        share = f"{100 * pixels[index] / total:.2f}" if pixels[index] else "–"
        rows.append(f'<tr><th scope="row">{name}</th><td class="iou">{bar}</td>{cells}<td>{share}</td></tr>')
    more = "".join(f'<th scope="col" class="more">{title}</th>' for title in columns)
    head = f'<th scope="col">class</th><th scope="col">IoU, %</th>{more}<th scope="col">share of pixels</th>'
    return (
        f'<div class="wide"><table class="classes"><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _samples(sheet: Path, overlays: Sequence[Path]) -> str:
    singles = "".join(
        _figure(path, f"Prediction on sample {n}", shown=False) for n, path in enumerate(overlays, start=1)
    )
    parts = [
        _figure(sheet, "Pictures that the model was not trained on, their labels, and what it makes of them"),
        f'<div class="pair">{singles}</div>' if singles else "",
    ]
    return "\n".join(part for part in parts if part)


def _figure(path: Path, text: str, *, shown: bool = True) -> str:
    """The HTML of a picture; ``text`` is its alternative text and, if ``shown``, its caption. Empty without file."""
    if not path.is_file():
        return ""
    source = f"{FIGURES}/{quote(path.name)}"
    caption = f"<figcaption>{html_text(text)}</figcaption>" if shown else ""
    image = f'<img src="{source}" alt="{html_text(text)}" loading="lazy">'
    return f'<figure><a href="{source}">{image}</a>{caption}</figure>'


def _usage(report: TrainingReport) -> str:
    python = f"""import segzoo
from transformers import pipeline

segment = pipeline("image-segmentation", {python_string(report.model_name)})
for part in segment("picture.jpg"):
    part["mask"].save(part["label"] + ".png")"""
    shell = f"""pip install segzoo
segzoo predict picture.jpg --model {shlex.quote(line_text(report.model_name))} --output labelled"""
    codes = ("\n".join(map(html_text, code.split("\n"))) for code in (shell, python))
    return "\n".join(f"<pre><code>{code}</code></pre>" for code in codes)


def _recipe(report: TrainingReport) -> str:
    values = dict(report.recipe)
    name, source = values.pop("name", None), values.pop("source", None)
    origin = ""
    if name:
        source = f" ({html_text(source)})" if source else ""
        origin = f"<p>Recipe <code>{html_text(name)}</code>{source}; the values as they were used:</p>"
    return origin + _facts(values)


def _speed(report: TrainingReport) -> dict[str, str]:
    """Duration, speed and waiting time; the latter two are medians, which a slow start does not change."""

    def middle(key: str) -> float | None:
        values = [entry[key] for entry in report.history if entry.get(key) is not None]
        return statistics.median(values) if values else None

    facts = {"time": duration(report.seconds)}
    if (speed := middle("images_per_second")) is not None:
        facts["images per second in training"] = f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"
    if (waiting := middle("waiting_for_data")) is not None:
        facts["time spent waiting for data"] = f"{100 * waiting:.1f} %"
    return facts


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    given = {name: value for name, value in facts.items() if value is not None and value not in ("", [], ())}
    rows = "\n".join(
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(shorten(_text(value), _MOST_IN_FACT))}</dd></div>"
        for name, value in given.items()
    )
    unset = ", ".join(str(name) for name in facts if name not in given)
    rest = f'\n<p class="protocol">Not set: {html_text(unset)}.</p>' if unset else ""
    return f'<dl class="facts">\n{rows}\n</dl>{rest}'


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and not any(isinstance(entry, Mapping | list | tuple) for entry in value):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _name(name: object) -> str:
    return html_text(shorten(line_text(name), MOST_IN_NAME))


def _paragraph(text: str) -> str:
    return f"<p>{html_text(text)}</p>" if text else ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
