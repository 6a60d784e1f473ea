"""Writes ``zoo.md``, one line for each released checkpoint, and ``images/zoo.png``, mIoU against parameters.

python docs/zoo_table.py            # some minutes: the operations of every architecture are counted, without weights

Scores are the publishers'; parameters and operations are counted.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.scene_parsing import translate_scene_parsing
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError
from segzoo.flops import count_operations

PAGE = Path(__file__).with_name("zoo.md")
PICTURE = Path(__file__).with_name("images") / "zoo.png"
PICTURE_OF = "ADE20K"
COLUMNS = "name", "method", "backbone", "crop", "mIoU", "ms+flip", "M parameters", "G multiply-adds"
LABEL_GAP = 1.5  # points of mIoU between two names in the picture, of those that are the best of their size
INTRODUCTION = """# All released checkpoints

`segzoo convert NAME --output DIR` makes a model of any of them. Scores are the publishers', in percent, on one scale and
with several scales and mirror images; where only Dice was published, it stands in the first column with its name.
Parameters (millions) and multiply-adds (thousand millions, one picture of the crop's size) are counted, without auxiliary
heads. [Models](models.md) tells what each is made of, `segzoo info NAME` the rest.

![published mIoU on ADE20K against parameters](images/zoo.png)

"""


@dataclass(frozen=True)
class Size:
    """What a model of one architecture costs.

    Args:
        parameters: weights without auxiliary heads.
        multiply_adds: of one picture of the crop's size; None where it is not known.
    """

    parameters: int
    multiply_adds: int | None


def size_of(row: zoo.ZooRow, known: dict[str, Size | None]) -> Size | None:
    """The size of a row's model; None for those without a config, or that do not convert.

    Args:
        row: the released checkpoint.
        known: sizes by config, of which many rows have equal ones; it is added to.
    """
    original = zoo.original_config(row.name)
    if original is None:
        return None
    key = repr((original.get("model", original.get("MODEL")), row.crop))
    if key not in known:
        try:
            translate = translate_scene_parsing if "MODEL" in original else translate_config
            config = translate(original).config
        except SegZooError:
            known[key] = None
            return None
        config.auxiliary_head_configs = []
        with torch.device("meta"):
            model = SegZooForSemanticSegmentation(config)
        operations = None if row.crop is None else count_operations(model, row.crop).multiply_adds
        known[key] = Size(sum(p.numel() for p in model.parameters()), operations)
    return known[key]


def cells(row: zoo.ZooRow, size: Size | None) -> list[str]:
    """The cells of a row, in the order of ``COLUMNS``."""
    scores = ["" if score is None else f"{score:.2f}" for score in (row.miou, row.miou_ms)]
    if row.miou is None and row.dice is not None:
        scores[0] = f"Dice {row.dice:.2f}"
    counts = ["", ""]
    if size is not None:
        counts[0] = f"{size.parameters / 1e6:.1f}"
        counts[1] = "" if size.multiply_adds is None else f"{size.multiply_adds / 1e9:.1f}"
    crop = "x".join(map(str, row.crop)) if row.crop else ""
    return [f"`{row.name}`", row.method, row.backbone, crop, *scores, *counts]


def page(sizes: dict[str, Size | None]) -> str:
    """The whole page: a table for each data set, its best rows first."""
    text = [INTRODUCTION]
    datasets: dict[str, list[zoo.ZooRow]] = {}
    for row in zoo.rows().values():
        datasets.setdefault("Backbones alone" if row.pretrained else row.dataset, []).append(row)
    for name, rows in sorted(datasets.items(), key=lambda entry: -len(entry[1])):
        rows.sort(key=lambda row: (-(row.miou or row.dice or 0), row.name))
        lines = [list(COLUMNS), ["---"] * len(COLUMNS), *(cells(row, sizes[row.name]) for row in rows)]
        text.append(f"## {name}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n")
    return "".join(text).rstrip("\n") + "\n"


def draw(sizes: dict[str, Size | None]) -> None:
    """Draw mIoU on one scale against parameters, of the rows for `PICTURE_OF`."""
    from matplotlib import pyplot as plt

    points = [
        (sizes[row.name].parameters / 1e6, row.miou, row)
        for row in zoo.rows().values()
        if row.dataset == PICTURE_OF and row.miou is not None and sizes[row.name] is not None
    ]
    figure, axes = plt.subplots(figsize=(11, 5.5), dpi=110)
    for colour, system in zip(plt.get_cmap("tab20").colors, zoo.SYSTEMS, strict=False):
        own = [(x, y) for x, y, row in points if row.system == system]
        if own:
            axes.scatter(*zip(*own, strict=True), s=22, color=colour, label=zoo.SYSTEMS[system].title, alpha=0.8)
    best = front(points)
    axes.plot([x for x, _, _ in best], [y for _, y, _ in best], color="0.7", linewidth=1, zorder=0)
    named = float("inf")
    for x, y, row in reversed(best):
        if named - y < LABEL_GAP:
            continue
        named, label = y, f"{row.method}, {row.backbone}"
        axes.annotate(label, (x, y), xytext=(-5, 3), textcoords="offset points", fontsize=6.5, ha="right")
    axes.set(
        xscale="log",
        xlim=(0.1, 12_000),
        xlabel="parameters (millions), without auxiliary heads",
        ylabel="published mIoU (%), one scale",
    )
    axes.set_title(f"{len(points)} released checkpoints for {PICTURE_OF}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE)


def front(points: Sequence[tuple[float, float, zoo.ZooRow]]) -> list[tuple[float, float, zoo.ZooRow]]:
    """The points that no smaller model beats, from the smallest on."""
    best: list[tuple[float, float, zoo.ZooRow]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def names_in(text: str) -> list[str]:
    """The names of the rows of a page."""
    return re.findall(r"^\| `([^`]+)`", text, re.M)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    architectures: dict[str, Size | None] = {}
    all_sizes = {name: size_of(row, architectures) for name, row in zoo.rows().items()}
    PAGE.write_text(page(all_sizes), encoding="utf-8")
    draw(all_sizes)
