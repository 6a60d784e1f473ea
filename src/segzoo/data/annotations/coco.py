"""COCO: one JSON a split, with polygons or runs; CVAT, Label Studio, Roboflow and most other tools export it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segzoo.data.annotations.annotated import (
    Annotated,
    Collection,
    Drawn,
    OutlineFormat,
    PictureFiles,
    Report,
    can_be_drawn,
    require_libraries,
    split_of,
    stem_of,
)
from segzoo.data.annotations.recognition import COCO, files_of
from segzoo.data.folders import Folder
from segzoo.errors import SegZooError
from segzoo.images.archives import read_address

_FARTHEST = 1_000_000  # COCO's rule goes along every edge, pixel by pixel


class CocoFormat(OutlineFormat):
    """Objects are painted in the order of the file; crowd regions first, since they surround single objects."""

    def collect(self, folder: Folder) -> Collection:
        """List the pictures of all JSON files of the folder.

        Raises:
            SegZooError: there is no such file, or two files give one class id two names.
        """
        require_libraries("pycocotools", "supervision")
        collection, pictures = Collection(), PictureFiles(folder)
        files = files_of(folder, COCO, collection.report)
        if not files:
            raise SegZooError(f"{folder.path} holds no COCO file: a JSON with images, annotations and categories")
        categories: dict[int, str] = {}
        for path, address in files.items():
            try:
                content = json.loads(read_address(address))
                named = {int(category["id"]): str(category["name"]) for category in content["categories"]}
                images, annotations = _objects(content["images"]), _objects(content["annotations"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                collection.report("unreadable_file", f"{path}: {type(error).__name__}: {error}")
                continue
            for key, name in named.items():
                if categories.setdefault(key, name) != name:
                    raise SegZooError(
                        f"{path}: category {key} is {name!r}, which another file calls {categories[key]!r}; import the files "
                        "one at a time, into folders of their own"
                    )
            by_image: dict[Any, list[dict]] = {}
            for annotation in annotations:
                by_image.setdefault(annotation.get("image_id"), []).append(annotation)
            for image in images:
                self._add(image, by_image.pop(image.get("id"), []), path, pictures, collection)
            for key, left in by_image.items():
                collection.report("missing_picture", f"{path}: image_id {key} of {len(left)} object(s)")
        collection.names = list(dict.fromkeys(categories[key] for key in sorted(categories)))
        collection.meaning = sorted(categories.items())
        self._categories = categories
        return collection

    def _add(
        self,
        image: Mapping[str, Any],
        objects: list[dict],
        path: str,
        pictures: PictureFiles,
        collection: Collection,
    ) -> None:
        name = str(image.get("file_name", ""))
        stated = split_of(path, by_name=True)
        found = pictures.take(name, path, stated, collection)
        if found is None:
            return
        size = (int(image["width"]), int(image["height"])) if image.get("width") and image.get("height") else None
        split = stated or split_of(found) or "train"
        collection.pictures.append(
            Annotated(pictures.addresses[found], split, stem_of(found), f"{path}, {name}", size, objects)
        )

    def objects(self, annotated: Annotated, size: tuple[int, int], report: Report) -> Iterator[Drawn]:
        """The objects of a picture; see `OutlineFormat`."""
        entries: Any = annotated.content
        for entry in sorted(entries, key=lambda entry: not entry.get("iscrowd")):
            where = f"{annotated.where}, object {entry.get('id')}"
            name = self._categories.get(entry.get("category_id"))
            if name is None:
                report("unknown_class", f"{where}: category_id {entry.get('category_id')}")
                continue
            shape = entry.get("segmentation")
            if not shape:
                report("no_shape", where)
                continue
            try:
                if isinstance(shape, list):
                    parts = shape if isinstance(shape[0], list) else [shape]
                    sound = [points for part in parts if (points := _points(part, size, where, report)) is not None]
                    mask = _filled(sound, size) if sound else None
                else:
                    mask = _unrolled(shape, size)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                report("broken_shape", f"{where}: {error}")
                continue
            if mask is not None:
                yield Drawn(name, mask)


def _objects(values: Any) -> list[dict]:
    """Values that are a list of JSON objects; TypeError if they are not."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise TypeError("images and annotations should be lists of objects")
    return values


def _points(part: Any, size: tuple[int, int], where: str, report: Report) -> np.ndarray | None:
    """The points (points, 2) of a polygon; None, with a report, where it cannot be drawn."""
    try:
        points = np.asarray(part, dtype=np.float64).reshape(-1, 2)
    except (ValueError, TypeError):
        report("broken_shape", f"{where}: {len(part) if isinstance(part, list) else 1} numbers are no x and y")
        return None
    if not can_be_drawn(points, size, where, report):
        return None
    if np.abs(points).max() > _FARTHEST:
        report("broken_shape", f"{where}: a point is farther than {_FARTHEST:,} pixels away")
        return None
    return points


def _filled(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The pixels of polygons by COCO's rule, (height, width)."""
    from pycocotools import mask

    runs = mask.frPyObjects([points.ravel().tolist() for points in polygons], size[1], size[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, about arrays of pycocotools
        return mask.decode(mask.merge(runs)).astype(bool)


def _unrolled(runs: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The pixels of runs, compressed or not, (height, width).

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the runs are of another size, or none.
    """
    from supervision import rle_to_mask

    expected = [size[1], size[0]]
    if list(runs.get("size", expected)) != expected:
        raise ValueError(f"runs of (height, width) {runs['size']}, the picture has {expected}")
    # pycocotools reads and writes beyond its memory where runs are of another length.
    return rle_to_mask(runs["counts"], size)
