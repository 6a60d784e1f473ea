"""List the released checkpoints that segzoo knows, with their published scores."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from segzoo import zoo

COLUMNS = ("name", "method", "backbone", "data set", "crop", "mIoU", "ms+flip", "converts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``segzoo list``."""
    parser.add_argument("text", metavar="TEXT", nargs="*", help="show rows that contain every one of these words")
    parser.add_argument("--convertible", action="store_true", help="leave out what this version cannot convert")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, with all their facts")


def run(args: argparse.Namespace) -> int:
    """Prints the table; returns 0, or 1 where no row fits."""
    from segzoo.conversion.translate import supports

    chosen = []
    for row in zoo.rows().values():
        text = " ".join([row.name, *row.aliases, row.system, row.method, row.backbone, row.dataset]).lower()
        if not all(word.lower() in text for word in args.text):
            continue
        converts = supports(zoo.original_config(row.name) or {})
        if converts or not args.convertible:
            chosen.append((row, converts))
    if args.json:
        print(json.dumps([_facts(row, converts) for row, converts in chosen], indent=1))
    elif chosen:
        _print_table([_cells(row, converts) for row, converts in chosen])
        print(f"\n{len(chosen)} of {len(zoo.rows())} released checkpoints, {sum(c for _, c in chosen)} convertible")
    else:
        print(f"no released checkpoint fits {' '.join(args.text)!r}")
    return 0 if chosen else 1


def _facts(row: zoo.ZooRow, converts: bool) -> dict[str, Any]:
    return asdict(row) | {
        "licence_code": row.licence_code,
        "licence_weights": row.licence_weights,
        "converts": converts,
    }


def _cells(row: zoo.ZooRow, converts: bool) -> list[str]:
    crop = "x".join(map(str, row.crop)) if row.crop else ""
    scores = ["" if score is None else f"{score:.2f}" for score in (row.miou, row.miou_ms)]
    return [row.name, row.method, row.backbone, row.dataset, crop, *scores, "yes" if converts else ""]


def _print_table(cells: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    numbers = {COLUMNS.index("mIoU"), COLUMNS.index("ms+flip")}
    for line in [list(COLUMNS), ["-" * width for width in widths], *cells]:
        padded = (
            c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(padded).rstrip())
