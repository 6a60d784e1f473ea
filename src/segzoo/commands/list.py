"""List the released checkpoints that segzoo knows and their scores, or the backbones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from segzoo import zoo
from segzoo.files import json_text
from segzoo.progress import print_text

COLUMNS = ("name", "method", "backbone", "data set", "crop", "mIoU", "ms+flip", "Dice", "converts")
BACKBONE_COLUMNS = ("name", "family", "parameters (M)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo list``."""
    parser.epilog = (
        "segzoo info NAME tells all about one of them, segzoo benchmark NAME how fast it is on this machine."
    )
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="*",
        help="show rows that contain every one of these words; one with * or ? is a pattern of a whole name, system, method or backbone",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--convertible", action="store_true", help="leave out what this version cannot convert")
    kind.add_argument("--backbones", action="store_true", help="list what `--backbone` of a training takes instead")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, with all their facts")


def run(args: argparse.Namespace) -> int:
    """Print the table; returns 0, or 1 if no row matches."""
    if args.backbones:
        return _list_backbones(args)
    chosen = []
    for row in zoo.rows().values():
        facts = [row.name, row.name_in_1x or "", *row.aliases, row.system, row.method, row.backbone, row.dataset]
        if not _fits(facts, args.text):
            continue
        converts = zoo.converts(row)
        if converts or not args.convertible:
            chosen.append((row, converts))
    if args.json:
        print_text(json_text([_facts(row, converts) for row, converts in chosen], indent=1), end="")
    elif chosen:
        _print_table(COLUMNS, {"mIoU", "ms+flip", "Dice"}, [_cells(row, converts) for row, converts in chosen])
        print_text(
            f"\n{len(chosen)} of {len(zoo.rows())} released checkpoints, {sum(c for _, c in chosen)} convertible"
        )
    else:
        print_text(f"no released checkpoint fits {' '.join(args.text)!r}")
    return 0 if chosen else 1


def _fits(facts: Sequence[str], words: Sequence[str]) -> bool:
    """Whether every word is somewhere in the facts, or as a pattern fits one of them; capitals do not count."""
    facts = [fact.lower() for fact in facts]
    return all(
        any(fnmatchcase(fact, word) for fact in facts) if {"*", "?"} & set(word) else word in " ".join(facts)
        for word in map(str.lower, words)
    )


def _facts(row: zoo.ZooRow, converts: bool) -> dict[str, Any]:
    return asdict(row) | {
        "licence_code": row.licence_code,
        "licence_weights": row.licence_weights,
        "name_in_1x": row.name_in_1x,
        "converts": converts,
    }


def _cells(row: zoo.ZooRow, converts: bool) -> list[str]:
    crop = "x".join(map(str, row.crop)) if row.crop else ""
    scores = ["" if score is None else f"{score:.2f}" for score in (row.miou, row.miou_ms, row.dice)]
    return [row.name, row.method, row.backbone, row.dataset, crop, *scores, "yes" if converts else ""]


def _list_backbones(args: argparse.Namespace) -> int:
    from transformers import AutoBackbone

    from segzoo import registration  # noqa: F401  AutoBackbone knows segzoo's
    from segzoo.auto import backbone_variants
    from segzoo.base import without_weights

    rows = []
    for name, backbone in sorted(backbone_variants().items()):
        family = backbone.config.model_type.removeprefix("segzoo_")
        if _fits([name, family], args.text):
            with without_weights():
                model = AutoBackbone.from_config(backbone.variant_config(name))
            model.tie_weights()
            rows.append({"name": name, "family": family, "parameters": sum(p.numel() for p in model.parameters())})
    if args.json:
        print_text(json_text(rows, indent=1), end="")
    elif rows:
        cells = [[row["name"], row["family"], f"{row['parameters'] / 1e6:.1f}"] for row in rows]
        _print_table(BACKBONE_COLUMNS, {"parameters (M)"}, cells)
    else:
        print_text(f"no backbone fits {' '.join(args.text)!r}")
    return 0 if rows else 1


def _print_table(columns: Sequence[str], numbers: set[str], cells: list[list[str]]) -> None:
    """Print rows of cells under column names; the columns named in ``numbers`` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [list(columns), ["-" * width for width in widths], *cells]:
        padded = (
            c.rjust(w) if name in numbers else c.ljust(w) for name, c, w in zip(columns, line, widths, strict=True)
        )
        print_text("  ".join(padded).rstrip())
