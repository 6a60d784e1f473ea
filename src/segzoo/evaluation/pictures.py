"""Pictures of where predictions are wrong."""

from __future__ import annotations

import os
from bisect import insort
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segzoo.evaluation.score_log import ImageRow
from segzoo.files import slug
from segzoo.images.drawing import contact_sheet
from segzoo.images.writing import write_png
from segzoo.text import line_text, shorten

WORST_SHEET, WORST_FOLDER = "worst.png", "worst"
_KEPT_BYTES = 2**26
"""Label maps that `WorstPredictions` keeps; those of more or larger images are predicted once more."""
_DRAWERS = 4  # sheets that are drawn at once; each takes some times the memory of its pictures
_WRONG = np.array([214, 39, 40], dtype=np.float32)
_RIGHT = np.array([70, 160, 90], dtype=np.float32)


@dataclass(frozen=True)
class WrongPicture:
    """An image with its truth, its prediction and its scores.

    Args:
        row: the scores.
        picture: uint8 array (height, width, 3).
        truth, prediction: label maps (height, width), integers.
    """

    row: ImageRow
    picture: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray

    def caption(self) -> str:
        """The file's stem, the mean IoU and the pixel accuracy."""
        row = self.row
        return (
            f"{Path(row.name).stem}: mIoU {100 * row.mean_iou:.1f} %, {100 * row.pixel_accuracy:.1f} % of pixels right"
        )


def worst_rows(rows: Sequence[ImageRow], count: int) -> list[ImageRow]:
    """The images with the lowest mean IoU, the worst first; images without a pixel that counts are left out."""
    return sorted((row for row in rows if row.num_pixels > 0), key=_order)[:count]


def _order(row: ImageRow) -> tuple[float, float, int]:
    return row.mean_iou, row.pixel_accuracy, row.index


class WorstPredictions:
    """The label maps of the worst images so far, so that these are not predicted once more for their pictures.

    Args:
        count: how many images at most. There are fewer where their label maps take more than some memory.
    """

    def __init__(self, count: int):
        self.count, self._bytes = count, 0
        self._kept: list[tuple[tuple[float, float, int], np.ndarray]] = []

    def add(self, row: ImageRow, prediction: np.ndarray) -> None:
        """Keep an image's label map (height, width) if the image is among the worst, in place of a better one's."""
        if not self.count or not row.num_pixels:
            return
        if len(self._kept) == self.count and _order(row) > self._kept[-1][0]:
            return
        insort(self._kept, (_order(row), prediction), key=lambda kept: kept[0])
        self._bytes += prediction.nbytes
        while self._kept and (len(self._kept) > self.count or self._bytes > _KEPT_BYTES):
            self._bytes -= self._kept.pop()[1].nbytes

    def get(self, row: ImageRow) -> np.ndarray | None:
        """An image's label map; None if it is not kept, as of one that another process or an earlier run scored."""
        return next((prediction for order, prediction in self._kept if order[-1] == row.index), None)


def error_picture(
    picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, ignore_index: int | None
) -> Image.Image:
    """The picture in grey, tinted red where the prediction is wrong and pale green where it is right.

    Args:
        picture: uint8 (height, width, 3).
        truth, prediction: label maps (height, width).
        ignore_index: label of pixels that do not count; they are dark. None: all count.

    Returns:
        An RGB image.
    """
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    ignored = np.zeros(truth.shape, dtype=bool) if ignore_index is None else truth == ignore_index
    wrong = (truth != prediction) & ~ignored
    tinted = np.where(wrong[..., None], 0.35 * grey + 0.65 * _WRONG, 0.8 * grey + 0.2 * _RIGHT)
    return Image.fromarray(np.where(ignored[..., None], 0.25 * grey, tinted).clip(0, 255).astype(np.uint8))


def draw_worst(
    pictures: Sequence[WrongPicture],
    folder: str | Path,
    *,
    palette: Sequence[Sequence[int]],
    names: Sequence[str],
    ignore_index: int | None,
    title: str,
) -> list[Path]:
    """Draw picture, truth, prediction and errors side by side: one sheet of all pictures, and a larger one for each.

    Args:
        pictures: the pictures, the worst first.
        folder: folder for ``worst.png`` and ``worst/``; earlier ones are replaced.
        palette, names: RGB colour and name of each class, by id.
        ignore_index: label of pixels that do not count.
        title: text above each sheet, such as the protocol.

    Returns:
        The files, ``worst.png`` first; an empty list without pictures.
    """
    folder = Path(folder)
    single = folder / WORST_FOLDER
    for old in [folder / WORST_SHEET, *single.glob("[0-9][0-9]*_*.png")]:
        old.unlink(missing_ok=True)
    if not pictures:
        return []
    single.mkdir(exist_ok=True)
    headings = ["picture", "truth", "prediction", "where wrong (red)"]

    def cells(shown: WrongPicture) -> list[Image.Image | np.ndarray]:
        wrong = error_picture(shown.picture, shown.truth, shown.prediction, ignore_index)
        return [Image.fromarray(shown.picture), shown.truth, shown.prediction, wrong]

    def draw_all() -> Path:
        captions = [shown.caption() for shown in pictures]
        sheet = contact_sheet(rows, headings, palette, names, captions)
        return write_png(folder / WORST_SHEET, titled(sheet, title))

    def draw_one(number: int, shown: WrongPicture, row: Sequence[Image.Image | np.ndarray]) -> Path:
        width = min(max(320, shown.picture.shape[1]), 640)
        sheet = contact_sheet([row], headings, palette, names, [shown.caption()], cell_width=width)
        path = single / f"{number:02d}_{slug(Path(shown.row.name).stem)[:60]}.png"
        return write_png(path, titled(sheet, title, size=max(14, width // 30)))

    with ThreadPoolExecutor(min(_DRAWERS, os.cpu_count() or 1)) as threads:  # Pillow lets others compute
        rows = list(threads.map(cells, pictures))
        drawn = [threads.submit(draw_all)]
        parts = enumerate(zip(pictures, rows, strict=True), start=1)
        drawn += [threads.submit(draw_one, number, *part) for number, part in parts]
        return [future.result() for future in drawn]


def titled(picture: Image.Image, text: str, size: int = 14, *, below: bool = False) -> Image.Image:
    """A picture with a text above or below it, wrapped to its width; ``size`` is the font size in pixels."""
    font, pad = ImageFont.load_default(size), size // 2
    lines = [""]
    for word in shorten(line_text(text), 1000).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > picture.width - 2 * pad:
            lines.append(word)
        else:
            lines[-1] = longer
    height = 2 * pad + round(1.4 * size) * len(lines)
    canvas = Image.new("RGB", (picture.width, picture.height + height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        y = pad + round(1.4 * size) * number + (picture.height if below else 0)
        draw.text((pad, y), line, (33, 37, 41), font)
    canvas.paste(picture, (0, 0 if below else height))
    return canvas
