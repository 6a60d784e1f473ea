"""Contact sheets of a data set: pictures with their masks, as they are in the files or as a training sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from segzoo.data.checks.label_ids import LabelRule, count_ids, list_ids
from segzoo.data.decoding import decode_pair
from segzoo.data.rows import row_names
from segzoo.data.transforms import JointTransform
from segzoo.errors import SegZooError
from segzoo.images.drawing import contact_sheet, overlay
from segzoo.images.loading import reduce_labels
from segzoo.images.reading import in_colour


def denormalize(pixel_values: torch.Tensor, transform: JointTransform) -> np.ndarray:
    """The picture that a `JointTransform` normalised.

    Args:
        pixel_values: output of the transform, float32 (channels, height, width).
        transform: the transform.

    Returns:
        uint8 array (height, width, channels) with the grey levels before normalisation; three channels are RGB.
        Padding, which is 0 after normalisation, has the mean colour.
    """
    std = torch.tensor(transform.std, dtype=torch.float64)[:, None, None]
    mean = torch.tensor(transform.mean, dtype=torch.float64)[:, None, None]
    levels = (pixel_values.double() * std + mean) / transform.rescale_factor
    if transform.channel_order == "bgr":
        levels = levels.flip(0)
    return levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def draw_pairs(
    rows: Any,
    indices: Sequence[int],
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    rule: LabelRule,
    short: Callable[[str], str] = str,
    on_problem: Callable[[str], object] | None = None,
    alpha: float = 0.55,
    cell_width: int = 320,
    num_channels: int = 3,
) -> PIL.Image.Image:
    """Draw pairs as they are in the files, one row each: picture, mask, overlay.

    Args:
        rows: undecoded rows of `load_segmentation_dataset`.
        indices: positions of the rows to draw.
        names, palette: names and colours (red, green, blue), each 0..255, of the classes, by id.
        rule: what the ids in masks mean.
        short: turns a file's name into its caption.
        on_problem: called with one line about each pair that cannot be shown, which is left out, and about ids without
            a class. None: a pair that cannot be shown is an error.
        alpha: share of the colours in the overlay, 0..1.
        cell_width: width of each picture on the sheet, in pixels.
        num_channels: number of channels to read the pictures with; of more than three, the first three are shown as
            red, green and blue.

    Raises:
        SegZooError: no pair can be shown; or, without `on_problem`, one of them cannot.
    """
    cells, captions = [], []
    for index in indices:
        row = rows[index]
        image_name, label_name = row_names(row, index)
        try:
            image, mask = _decode(row, image_name, label_name, num_channels)
        except SegZooError as error:
            if on_problem is None:
                raise
            on_problem(str(error))
            continue
        _tell_odd_ids(mask, rule, label_name, on_problem)
        height, width = image.shape[:2]
        picture, labels = _smaller(image, mask, 2 * cell_width)
        labels = reduce_labels(labels, rule.ignore_index) if rule.reduce_labels else labels
        labels = _without(labels, rule.ignore_index)
        cells.append([picture, labels, overlay(picture, labels, palette, alpha)])
        captions.append(f"{index}: {short(image_name)}, {width}x{height}")
    if not cells:
        raise SegZooError("None of the chosen pairs can be shown; `segzoo data check` says what is the matter.")
    return contact_sheet(cells, ["picture", "mask", "overlay"], palette, names, captions, cell_width)


def draw_samples_as_trained(
    dataset: Any,
    indices: Sequence[int],
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    epochs: Sequence[int] = (0,),
    short: Callable[[str], str] = str,
    on_problem: Callable[[str], object] | None = None,
    alpha: float = 0.55,
    cell_width: int = 320,
) -> PIL.Image.Image:
    """Draw samples exactly as a training sees them: picture in the file, augmented picture, labels, overlay.

    Args:
        dataset: a `SegmentationDataset` with a `JointTransform`; its seed, the epoch and the index decide the sample.
        indices: positions of the samples to draw.
        epochs: epochs to draw each sample in; the sheet has one row for every sample and epoch.
        names, palette, short, on_problem, alpha, cell_width: see `draw_pairs`.

    Raises:
        SegZooError: no sample can be shown; or, without `on_problem`, one of them cannot.
    """
    transform: JointTransform = dataset.transform
    cells, captions = [], []
    for index in indices:
        for epoch in epochs:
            dataset.set_epoch(epoch)
            image_name, label_name = dataset.names(index)
            try:
                item = dataset[index]
                row = dataset.dataset[index]
                original, mask = _decode(row, image_name, label_name, dataset.num_channels)
            except SegZooError as error:
                if on_problem is None:
                    raise
                on_problem(str(error))
                break
            if epoch == epochs[0]:
                rule = LabelRule(len(palette), transform.ignore_index, transform.reduce_labels)
                _tell_odd_ids(mask, rule, label_name, on_problem)
            picture = PIL.Image.fromarray(in_colour(denormalize(item["pixel_values"], transform)))
            labels = _without(item["labels"].numpy(), transform.ignore_index)
            before = _smaller(original, mask, 2 * cell_width)[0]
            cells.append([before, picture, labels, overlay(picture, labels, palette, alpha)])
            captions.append(f"{index}: {short(image_name)}, epoch {epoch}: {picture.width}x{picture.height}")
    if not cells:
        raise SegZooError("None of the chosen samples can be shown; `segzoo data check` says what is the matter.")
    headings = ["file", "as trained", "labels", "overlay"]
    return contact_sheet(cells, headings, palette, names, captions, cell_width)


def _decode(row: Mapping, image_name: str, label_name: str, num_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture as RGB, and the mask."""
    image, mask = decode_pair(
        row["image"],
        row["label"],
        image_name=image_name,
        label_name=label_name,
        encoding=row.get("label_encoding"),
        num_channels=num_channels,
    )
    return in_colour(image), mask


def _tell_odd_ids(mask: np.ndarray, rule: LabelRule, name: str, tell: Callable[[str], object] | None) -> None:
    bad = rule.outside(count_ids(mask))
    if bad and tell is not None:
        tell(f"{name}: label ids outside {rule.in_words()} are shown without colour: {list_ids(bad)}")


def _smaller(image: np.ndarray, mask: np.ndarray, width: int) -> tuple[PIL.Image.Image, np.ndarray]:
    """Picture and mask, shrunk to ``width`` pixels if they are wider, so that huge pictures fit into memory."""
    picture = PIL.Image.fromarray(image)
    if picture.width <= width:
        return picture, mask
    size = (width, max(1, round(picture.height * width / picture.width)))
    rows = (np.arange(size[1]) + 0.5) * mask.shape[0] / size[1]
    columns = (np.arange(size[0]) + 0.5) * mask.shape[1] / size[0]
    small = mask[rows.astype(np.int64)[:, None], columns.astype(np.int64)[None, :]]
    return picture.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0), small


def _without(labels: np.ndarray, ignore_index: int) -> np.ndarray:
    """Labels with -1 for ignored pixels, which have no class even if the ignore index is a class id."""
    return np.where(labels == ignore_index, -1, labels.astype(np.int64))
