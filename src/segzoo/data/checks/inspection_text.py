"""The report of a data set's check as text for a terminal."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from segzoo.data.checks.findings import SEVERITIES, Finding
from segzoo.data.checks.inspection import DataReport
from segzoo.text import MOST_IN_NAME, line_text, shorten

ALL_CLASSES = 40
"""With up to this many classes, the table also lists those that never appear."""


def report_text(report: DataReport, *, most_cases: int = 5) -> str:
    """The report as text: what was checked, how often each class occurs, and the findings.

    Args:
        report: the result of `inspect_dataset`.
        most_cases: number of cases that are listed for each kind of finding.
    """
    parts = [_header(report)]
    if report.counts:
        parts += [_class_table(report), _weights(report)]
    if report.findings:
        parts += [*(_section(f, report, most_cases) for f in report.findings), _overview(report.findings)]
    parts.append(verdict(report))
    return "\n\n".join(part for part in parts if part)


def verdict(report: DataReport) -> str:
    """The result in one line."""
    checked, pairs = sum(report.checked.values()), sum(report.pairs.values())
    looked = f"all {pairs} pairs" if checked == pairs else f"{checked} of {pairs} pairs"
    found = [_plural(report.count(severity), severity) for severity in SEVERITIES if report.count(severity)]
    return f"{looked} checked: {', '.join(found) or 'nothing is wrong'}"


def _header(report: DataReport) -> str:
    rule = report.rule
    splits = ", ".join(
        f"{split} {report.pairs[split]}"
        + (f" ({report.checked[split]} checked)" if report.checked[split] != report.pairs[split] else "")
        for split in report.pairs
    )
    if rule.num_labels is None:
        classes = "unknown"
    else:
        origin = f" from {report.classes_source}" if report.classes_source else ""
        classes = f"{rule.num_labels}{origin}"
    lines = [
        line_text(f"data     {report.source}"),
        f"pairs    {splits or 'none'}",
        line_text(f"classes  {classes}; ids in masks: {rule.in_words()}"),
    ]
    if report.value_rules:
        lines.append(f"values   {_values(report)}")
    if report.num_channels is not None:
        lines.append(f"channels {report.num_channels}, as the model has")
    if report.crop_size is not None:
        lines.append(f"crop     {report.crop_size[1]}x{report.crop_size[0]} (width x height)")
    return "\n".join(lines)


def _values(report: DataReport) -> str:
    """How the values of the pictures become grey levels: one rule for all, or each with its number of pictures."""
    rules = report.value_rules
    if len(rules) == 1:
        return next(iter(rules)).words
    return "; ".join(f"{_plural(count, 'picture')}: {rule.words}" for rule, count in rules.items())


def _overview(findings: Sequence[Finding]) -> str:
    rows = [(finding.severity, str(finding.count), finding.title) for finding in findings]
    return table(("severity", "count", "finding"), rows, right=(1,))


def _section(finding: Finding, report: DataReport, most: int) -> str:
    lines = [f"{finding.severity}: {finding.title}"]
    for case in finding.cases[:most]:
        files = " and ".join(short_name(name, report.source) for name in case.files)
        fix = f" ({case.fix})" if case.fix and case.fix != finding.fix else ""
        lines.append(line_text("  " + ": ".join(part for part in (files, case.text) if part) + fix))
    if finding.count > most:
        lines.append(f"  ... and {finding.count - most} more")
    if lines[-1].strip() == "":
        lines.pop()
    if finding.fix:
        lines.append(f"  -> {finding.fix}")
    return "\n".join(lines)


def short_name(name: str, source: str) -> str:
    """A file's path within the data set `source`, which may be a folder or a zip archive."""
    inside, _, archive = name.removeprefix("zip://").partition("::")
    if name.startswith("zip://") and archive == os.path.abspath(source):
        return inside
    return name.removeprefix(os.path.join(os.path.abspath(source), "")).removeprefix(os.path.join(source, ""))


def _class_table(report: DataReport) -> str:
    splits = list(report.counts)
    present = [index for index in range(len(report.names)) if any(c.pixels[index] for c in report.counts.values())]
    shown = range(len(report.names)) if len(report.names) <= ALL_CLASSES else present
    weights = report.class_weights()
    head = ["id", "class"]
    for split in splits:
        head += [f"{split} pixels", "%", "images"]
    head.append("weight")
    rows = []
    for index in shown:
        row = [str(index), shorten(line_text(report.names[index]), MOST_IN_NAME)]
        for split in splits:
            counts = report.counts[split]
            row += [f"{counts.pixels[index]:,}", _percent(counts.share[index]), f"{counts.images[index]:,}"]
        row.append("-" if math.isnan(weights[index]) else f"{weights[index]:.3g}")
        rows.append(row)
    ignored, everything = ["", "ignored"], ["", "all"]
    for split in splits:
        counts = report.counts[split]
        total = int(counts.pixels.sum()) + counts.ignored
        ignored += [f"{counts.ignored:,}", _percent(counts.ignored / max(1, total)), f"{counts.ignored_images:,}"]
        everything += [f"{total:,}", "", f"{counts.num_images:,}"]
    lines = [table(head, [*rows, [*ignored, ""], [*everything, ""]], right=(0, *range(2, len(head))))]
    if len(shown) < len(report.names):
        lines.append(f"left out: {len(report.names) - len(shown)} classes that never appear")
    lines.append("%: of the pixels that count; ignored pixels: of all. images: masks that hold the class")
    return "\n".join(lines)


def _weights(report: DataReport) -> str:
    weights = report.class_weights()
    if report.rule.num_labels is None or all(math.isnan(weight) for weight in weights):
        return ""
    words = " ".join("1" if math.isnan(weight) else f"{weight:.3g}" for weight in weights)
    text = f"weight: median-frequency balancing over {report.weights_split}"
    if len(weights) <= ALL_CLASSES:
        text += f", as an option: --class_weights {words}"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if share == 0 or share >= 5e-5 else "<0.01"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table as text, with a line under the headings.

    Args:
        head: headings of the columns.
        rows: cells of each row, as many as there are headings.
        right: indices of the columns that are aligned to the right, from 0.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
