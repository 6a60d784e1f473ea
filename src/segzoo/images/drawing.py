"""Pictures of label maps: overlays, legends, contact sheets, confusion matrices. Pillow and NumPy are all they need.

A label map is an integer array (height, width) of class ids; ids outside `range(len(palette))`, such as the ignore
index 255, have no colour and show the picture itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from segzoo.errors import SegZooError
from segzoo.files import write_whole
from segzoo.images.legend import FAINT, INK, PAPER, Entry, Legend, fit, font_of, text_width

if TYPE_CHECKING:
    import torch

_HATCH = (200, 203, 207)


def default_palette(num_labels: int) -> list[list[int]]:
    """`num_labels` RGB colours (0..255), the same in every call, each clearly different from the ones before it.

    Hues advance by the golden ratio while lightness and saturation cycle, so that there are colours for any number of
    classes.
    """
    import colorsys

    colours = []
    for index in range(num_labels):
        hue = (0.6 + index * 0.61803398875) % 1.0
        lightness = (0.50, 0.66, 0.36)[index % 3]
        saturation = (0.80, 0.62, 0.70)[(index // 3) % 3]
        colours.append([round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation)])
    return colours


def class_areas(label_map: "np.ndarray | torch.Tensor", num_labels: int) -> list[dict]:
    """The area of each class that occurs, largest first: `{"id": int, "pixels": int, "fraction": float}`.

    Fractions are of all pixels of the map, including those without a class.
    """
    array = _as_label_array(label_map)
    ids = array if array.dtype == np.uint8 else array[(array >= 0) & (array < num_labels)]
    counts = np.bincount(ids.reshape(-1), minlength=num_labels)[:num_labels]
    order = np.argsort(-counts, kind="stable")
    return [
        {"id": int(i), "pixels": int(counts[i]), "fraction": float(counts[i] / array.size)} for i in order if counts[i]
    ]


def label_image(label_map: "np.ndarray | torch.Tensor", palette: Sequence[Sequence[int]]) -> Image.Image:
    """The label map as a picture whose pixel values ARE the class ids.

    Up to 256 classes it is an 8-bit palette image (mode "P"), which viewers show in the classes' colours; for more it
    is 16-bit grey (mode "I;16"), without colours. Raises `SegZooError` for ids below 0 or above 65535.
    """
    array = _as_label_array(label_map)
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise SegZooError(
            f"A label PNG holds ids from 0 to 65535; this map has ids from {array.min()} to {array.max()}."
        )
    if array.size == 0 or (array.max() <= 255 and len(palette) <= 256):
        image = Image.fromarray(array.astype(np.uint8)).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        flat = [int(value) for colour in palette for value in colour[:3]]
        image.putpalette(flat + [0] * (768 - len(flat)))
        return image
    return Image.fromarray(array.astype(np.uint16))


def overlay(
    image: Image.Image | np.ndarray,
    label_map: "np.ndarray | torch.Tensor",
    palette: Sequence[Sequence[int]],
    alpha: float = 0.55,
    outline: bool = True,
) -> Image.Image:
    """The picture (PIL image or uint8 array) with each class's colour laid over it, as an RGB image.

    `alpha` is the share of the colour (0 shows only the picture, 1 only the colours); `outline` draws the borders
    between classes at nearly full strength. Raises `SegZooError` if picture and map differ in size.
    """
    picture = _as_picture(image)
    labels = _as_label_array(label_map)
    if picture.size != (labels.shape[1], labels.shape[0]):
        raise SegZooError(
            f"The picture is {picture.width}x{picture.height} and the label map {labels.shape[1]}x{labels.shape[0]} "
            "(width x height): resize the map to the picture first (post_process_semantic_segmentation, target_sizes)."
        )
    if not 0 <= alpha <= 1:
        raise SegZooError(f"alpha is {alpha}; it must lie between 0 and 1.")
    values = np.asarray(picture)
    starts = 256 * _rows_of(labels, palette)
    mixed = np.empty_like(values)
    for channel, table in enumerate(_mixed_with(palette, alpha)):
        mixed[..., channel] = table.take(starts + values[..., channel])
    if outline:
        edge = np.zeros(labels.shape, dtype=bool)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[1:, :] |= labels[1:, :] != labels[:-1, :]
        places = edge.ravel().nonzero()[0]
        starts, values = starts.ravel()[places], values.reshape(-1, 3)[places]
        for channel, table in enumerate(_mixed_with(palette, max(alpha, 0.95))):
            mixed.reshape(-1, 3)[places, channel] = table.take(starts + values[:, channel])
    return Image.fromarray(mixed)


def _mixed_with(palette: Sequence[Sequence[int]], strength: float) -> np.ndarray:
    """What each grey level becomes under the colour of each class.

    Args:
        palette: RGB colours by class id.
        strength: share of the colours, 0 to 1.

    Returns:
        uint8 (3, (classes + 1) * 256): for each channel 256 entries a class, and last those of pixels without one.
    """
    levels = np.arange(256, dtype=np.float32)
    colours = _colour_table(palette)[:-1].T[..., None].astype(np.float32)
    blend = levels + (colours - levels) * np.float32(strength)
    table = np.empty((3, len(palette) + 1, 256), dtype=np.uint8)
    table[:, :-1] = np.clip(np.rint(blend), 0, 255)
    table[:, -1] = levels
    return table.reshape(3, -1)


def colour_map(label_map: "np.ndarray | torch.Tensor", palette: Sequence[Sequence[int]]) -> Image.Image:
    """The label map in its classes' colours, as an RGB image; pixels without a class are hatched in grey."""
    labels = _as_label_array(label_map)
    places = _rows_of(labels, palette)
    colours = np.empty((*labels.shape, 3), dtype=np.uint8)
    for channel, table in enumerate(_colour_table(palette).T):
        colours[..., channel] = table.take(places)
    rows, columns = np.nonzero(places == len(palette))
    stripes = ((rows + columns) // 4 % 2 == 0)[:, None]
    colours[rows, columns] = np.where(stripes, np.array(_HATCH, np.uint8), np.array(PAPER, np.uint8))
    return Image.fromarray(colours)


def overlay_with_legend(
    image: Image.Image | np.ndarray,
    label_map: "np.ndarray | torch.Tensor",
    palette: Sequence[Sequence[int]],
    names: Sequence[str],
    alpha: float = 0.55,
    max_entries: int = 20,
    title: str | None = None,
) -> Image.Image:
    """`overlay` beside a legend of the classes that occur, largest first, with the share of the picture each covers.

    Small pictures are enlarged by whole factors, so that the text stays in proportion. The legend has at most
    `max_entries` entries for classes; if there are more classes, its last entry sums up the smallest ones.
    """
    labels = _as_label_array(label_map)
    picture = overlay(image, labels, palette, alpha)
    factor = max(1, -(-360 // max(picture.size)))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    size = int(min(max(14, round(max(picture.size) * 0.024)), 96))
    layout = Legend(_area_entries(labels, palette, names, max_entries), size, fit(title, 60) if title else None)
    width, height = layout.extent(1)
    below = picture.width > 1.9 * picture.height or height > 1.3 * picture.height
    key = layout.draw(max(1, picture.width // width) if below else 1)
    if below:
        canvas = Image.new("RGB", (max(picture.width, key.width), picture.height + key.height), PAPER)
        canvas.paste(key, (0, picture.height))
    else:
        canvas = Image.new("RGB", (picture.width + key.width, max(picture.height, key.height)), PAPER)
        canvas.paste(key, (picture.width, 0))
    canvas.paste(picture, (0, 0))
    return canvas


def contact_sheet(
    rows: Sequence[Sequence["Image.Image | np.ndarray | torch.Tensor"]],
    headings: Sequence[str],
    palette: Sequence[Sequence[int]],
    names: Sequence[str],
    captions: Sequence[str] | None = None,
    cell_width: int = 320,
) -> Image.Image:
    """Pictures side by side, one row per image: each cell is a PIL image or a label map (shown in colours).

    `headings` are above the columns, `captions` (optional, one per row) below the rows, and a legend of all classes
    that occur in a label map is at the bottom. Cells are scaled to a width of `cell_width` pixels.
    """
    if any(len(row) != len(headings) for row in rows):
        raise SegZooError(f"Every row of a contact sheet needs {len(headings)} cells, one per heading.")
    size, gap = max(13, cell_width // 22), max(6, cell_width // 40)
    head = round(size * 2.2)
    foot = round(size * 1.7) if captions else 0
    present: set[int] = set()
    unlabelled = False
    cells = []
    for row in rows:
        shown = []
        for cell in row:
            if isinstance(cell, Image.Image) and cell.mode != "P":
                picture, method = _as_picture(cell), Image.Resampling.BICUBIC
            else:
                labels = _as_label_array(cell)
                ids = np.unique(labels)
                present.update(int(i) for i in ids if 0 <= i < len(palette))
                unlabelled |= bool(((ids < 0) | (ids >= len(palette))).any())
                picture, method = colour_map(labels, palette), Image.Resampling.NEAREST
            shown.append(
                picture.resize((cell_width, max(1, round(picture.height * cell_width / picture.width))), method)
            )
        cells.append(shown)
    entries = [(names[i], palette[i], "") for i in sorted(present)] + [("no label", None, "")] * unlabelled
    width = len(headings) * cell_width + (len(headings) + 1) * gap
    layout = Legend(entries, size)
    key = (
        layout.draw(width // max(1, layout.extent(1)[0] - round(size * 0.3)))
        if entries
        else Image.new("RGB", (1, 1), PAPER)
    )
    heights = [max(cell.height for cell in row) + gap + foot for row in cells]
    canvas = Image.new("RGB", (max(width, key.width), head + sum(heights) + key.height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        x = gap + column * (cell_width + gap)
        draw.text((x, head / 2), str(heading), INK, font_of(round(size * 1.1), str(heading)), "lm")
    y = head
    for index, row in enumerate(cells):
        for column, cell in enumerate(row):
            canvas.paste(cell, (gap + column * (cell_width + gap), y))
        if captions:
            bottom = y + heights[index] - foot / 2 - gap / 2
            caption = fit(str(captions[index]), 120)
            draw.text((gap, bottom), caption, FAINT, font_of(size, caption), "lm")
        y += heights[index]
    canvas.paste(key, (0, y))
    return canvas


def draw_confusion_matrix(
    matrix: "np.ndarray | torch.Tensor", names: Sequence[str], path: str | Path, title: str | None = None
) -> Path:
    """Write `confusion_picture` as a PNG at `path`, whose folder exists; returns the path."""
    picture = confusion_picture(matrix, names, title)
    return write_whole(path, lambda file: picture.save(file, format="PNG"))


def confusion_picture(
    matrix: "np.ndarray | torch.Tensor", names: Sequence[str], title: str | None = None
) -> Image.Image:
    """Which classes are mistaken for which, as an RGB picture.

    A row is a true class, a column the class that its pixels were labelled as; the shade is the share of the row's
    pixels, blue on the diagonal and red elsewhere. Up to about 40 classes the cells have the shares in percent; above
    that the largest confusions are listed below the matrix.

    Args:
        matrix: pixel counts (num_labels, num_labels), rows truth, columns prediction; tensor or array.
        names: names of the classes, by id.
        title: text above the matrix.

    Raises:
        SegZooError: the matrix is not square or empty, has negative counts, or the number of names differs from that
            of rows.
    """
    title = fit(title, 120) if title else title
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu().numpy()
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.ndim != 2 or counts.shape != (len(names), len(names)) or not len(names) or not (counts >= 0).all():
        raise SegZooError(
            f"A confusion matrix for {len(names)} classes holds {len(names)} x {len(names)} counts; this one is "
            f"{counts.shape} with values from {counts.min(initial=0):g}."
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)

    count = len(names)
    cell = min(56, max(12, 1000 // count + 6)) if count <= 200 else max(2, 2400 // count)
    size = min(15, cell - 2) if cell >= 11 else 0  # text size of the names; 0 if they do not fit
    grid = _confusion_grid(shares, totals[:, 0] > 0, cell)
    labels = [fit(str(name), 24) for name in names] if size else []
    gap, heading = max(6, size // 2), 18
    left = max((text_width(label, size) for label in labels), default=0) + 3 * gap + heading
    above = max((text_width(label, size) for label in labels), default=0) + 3 * gap + heading
    top = (40 if title else gap) + above
    notes = _confusion_notes(shares, totals[:, 0], names) if cell < 26 else []
    note_size, note_line = 15, 24
    right = text_width("100.0 %", max(size, 11)) + 2 * gap
    width = max(left + grid.width + right, left + _KEY_WIDTH, text_width(title or "", 20) + 2 * gap)
    columns = max(1, (width - 2 * gap) // 600)
    below = 62 + (note_line * (1 + -(-len(notes) // columns)) if notes else 0)
    canvas = Image.new("RGB", (width, top + grid.height + below), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((gap, 22), title, INK, font_of(20, title), "lm")
    canvas.paste(grid, (left, top))
    for index, label in enumerate(labels):
        middle = (index + 0.5) * cell
        draw.text((left - gap, top + middle), label, INK, font_of(size, label), "rm")
        _text_upwards(canvas, (round(left + middle), top - gap), label, size, INK)
        share = _share(totals[index, 0] / totals.sum()) if totals[index, 0] else "none"
        draw.text((left + grid.width + right - gap, top + middle), share, FAINT, font_of(max(size - 1, 9)), "rm")
    draw.text((left + grid.width / 2, top - above + heading / 2 + gap / 2), "labelled as", FAINT, font_of(14), "mm")
    if labels:
        draw.text((left + grid.width + right - gap, top - gap), "of all", FAINT, font_of(max(size - 1, 10)), "rb")
    _text_upwards(canvas, (gap + heading // 2, top + grid.height // 2), "true class", 14, FAINT, centred=True)
    _confusion_key(draw, left, top + grid.height + 20)
    y = top + grid.height + 62
    if notes:
        draw.text((gap, y), "Largest confusions, by pixels", INK, font_of(16), "lm")
        rows = -(-len(notes) // columns)
        for index, note in enumerate(notes):
            column, row = divmod(index, rows)
            place = (gap + column * ((width - 2 * gap) // columns), y + note_line * (row + 1))
            draw.text(place, note, INK, font_of(note_size, note), "lm")
    return canvas


def _area_entries(
    labels: np.ndarray, palette: Sequence[Sequence[int]], names: Sequence[str], max_entries: int
) -> list[Entry]:
    areas = class_areas(labels, len(palette))
    if len(areas) > max_entries:
        rest = areas[max_entries - 1 :]
        areas = areas[: max_entries - 1]
    else:
        rest = []
    entries = [(names[area["id"]], palette[area["id"]], _share(area["fraction"])) for area in areas]
    if rest:
        entries.append((f"{len(rest)} more", None, _share(sum(area["fraction"] for area in rest))))
    covered = sum(area["fraction"] for area in areas + rest)
    if covered < 1 - 1e-9:
        entries.append(("no label", None, _share(1 - covered)))
    return entries


def _share(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if fraction >= 0.0005 else "< 0.1 %"


_KEY_WIDTH = 450
_RIGHT, _WRONG = (24, 90, 160), (196, 48, 24)  # full shades of the diagonal and of the other cells


def _shade(shares: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """RGB between white and a colour, by the square root of the share, so that a few percent are visible."""
    strength = np.sqrt(np.clip(shares, 0, 1))[..., None]
    return 255 + (np.asarray(colour, dtype=np.float64) - 255) * strength


def _confusion_grid(shares: np.ndarray, present: np.ndarray, cell: int) -> Image.Image:
    """The cells of a confusion matrix, with numbers if these fit; rows without pixels are hatched."""
    count = len(shares)
    diagonal = np.eye(count, dtype=bool)[..., None]
    colours = np.where(diagonal, _shade(shares, _RIGHT), _shade(shares, _WRONG)).round().astype(np.uint8)
    grid = Image.fromarray(np.kron(colours, np.ones((cell, cell, 1), dtype=np.uint8)))
    draw = ImageDraw.Draw(grid)
    side = count * cell
    step = 1 if count <= 40 else 10
    for position in range(step, count, step):
        line = [(position * cell, 0), (position * cell, side)]
        draw.line(line, (225, 228, 231))
        draw.line([(y, x) for x, y in line], (225, 228, 231))
    hatch = Image.new("1", (side, cell))
    for x in range(-cell, side, 8):
        ImageDraw.Draw(hatch).line([(x, cell - 1), (x + cell, 0)], 1)
    for row in np.flatnonzero(~present):
        grid.paste(_HATCH, (0, int(row) * cell), hatch)
    if cell >= 26:
        font = font_of(max(11, round(cell * 0.3)))
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            ink = PAPER if colours[row, column].sum() < 380 else INK
            place = ((column + 0.5) * cell, (row + 0.5) * cell)
            draw.text(place, f"{100 * shares[row, column]:.0f}", ink, font, "mm")
    draw.rectangle([0, 0, side - 1, side - 1], outline=FAINT)
    return grid


def _confusion_key(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """Draw the key to the shades, at most `_KEY_WIDTH` pixels wide."""
    shares = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    text = "share of the true class's pixels, %"
    draw.text((left, top + 7), text, FAINT, font_of(13), "lm")
    start, step = left + text_width(text, 13) + 12, 30
    for row, colour in enumerate((_RIGHT, _WRONG)):
        for index, shade in enumerate(_shade(shares, colour).round().astype(int).tolist()):
            box = [start + step * index, top + 9 * row - 2, start + step * (index + 1), top + 9 * row + 7]
            draw.rectangle(box, tuple(shade), (225, 228, 231))
    for index, share in enumerate(shares):
        draw.text((start + step * (index + 0.5), top + 25), f"{100 * share:.0f}", FAINT, font_of(11), "mm")


def _confusion_notes(shares: np.ndarray, totals: np.ndarray, names: Sequence[str], count: int = 24) -> list[str]:
    """The `count` confusions with the most pixels, in words."""
    pixels = shares * totals[:, None]
    np.fill_diagonal(pixels, 0)
    order = np.argsort(-pixels, axis=None, kind="stable")[:count]
    pairs = [(row, column) for row, column in zip(*np.unravel_index(order, pixels.shape), strict=True)]
    return [
        f"{fit(str(names[row]), 20)} as {fit(str(names[column]), 20)}: {_share(shares[row, column])} of the class"
        for row, column in pairs
        if pixels[row, column] > 0
    ]


def _text_upwards(
    canvas: Image.Image,
    place: tuple[int, int],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    centred: bool = False,
) -> None:
    """Draw text that reads upwards, around the column `place[0]`, beginning at (or centred on) `place[1]`."""
    font = font_of(size, text)
    length, height = text_width(text, size) + 2, round(size * 1.4)
    strip = Image.new("L", (length, height))
    ImageDraw.Draw(strip).text((0, height / 2), text, 255, font, "lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    x, y = place[0] - height // 2, place[1] - (length // 2 if centred else length)
    canvas.paste(Image.new("RGB", strip.size, ink), (x, y), strip)


def _rows_of(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """The row of each pixel in a table of the classes with one more row, the last, for pixels without a class.

    Below 256 classes they are uint16, which also hold where such a row begins if it has 256 entries.
    """
    kind = np.dtype(np.uint16 if len(palette) < 256 else np.intp)  # looking up by small numbers takes half the time
    return np.where((labels >= 0) & (labels < len(palette)), labels.astype(kind), kind.type(len(palette)))


def _colour_table(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """The colour of each class, uint8 (classes + 1, 3); the last row is for pixels without a class."""
    table = np.zeros((len(palette) + 1, 3), dtype=np.uint8)
    if len(palette):
        table[:-1] = np.asarray([colour[:3] for colour in palette], dtype=np.uint8)
    return table


def _as_label_array(label_map: "np.ndarray | torch.Tensor") -> np.ndarray:
    if hasattr(label_map, "detach"):
        label_map = label_map.detach().cpu().numpy()
    array = np.asarray(label_map)
    if array.ndim != 2 or not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
        raise SegZooError(f"A label map is an integer array (height, width); this one is {array.dtype} {array.shape}.")
    return array if array.dtype == np.uint8 else array.astype(np.int64, copy=False)


def _as_picture(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise SegZooError(f"A picture is a PIL image or a uint8 array; this one is {array.dtype} {array.shape}.")
    return Image.fromarray(array).convert("RGB")
