"""LabelMe: a JSON beside each picture, with polygons and rectangles."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
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
from segzoo.data.annotations.recognition import LABELME, files_of
from segzoo.data.folders import Folder
from segzoo.errors import SegZooError
from segzoo.images.archives import read_address


class LabelMeFormat(OutlineFormat):
    """Shapes are painted in the order of the file, as LabelMe's own script does; classes are sorted by name."""

    def collect(self, folder: Folder) -> Collection:
        """List the pictures of all JSON files of the folder.

        Raises:
            SegZooError: there is no such file.
        """
        require_libraries("supervision")
        collection, pictures = Collection(), PictureFiles(folder)
        files = files_of(folder, LABELME, collection.report)
        if not files:
            raise SegZooError(f"{folder.path} holds no file of LabelMe: a JSON with shapes and imagePath")
        names: set[str] = set()
        for path, address in files.items():
            try:
                content = json.loads(read_address(address))
                shapes, name = list(content["shapes"]), str(content["imagePath"])
                names.update(str(shape["label"]) for shape in shapes)
            except (OSError, ValueError, KeyError, TypeError) as error:
                collection.report("unreadable_file", f"{path}: {type(error).__name__}: {error}")
                continue
            found = pictures.take(name, path, split_of(path), collection)
            if found is None:
                continue
            size = None
            if content.get("imageWidth") and content.get("imageHeight"):
                size = int(content["imageWidth"]), int(content["imageHeight"])
            split = split_of(found) or "train"
            collection.pictures.append(Annotated(pictures.addresses[found], split, stem_of(found), path, size, shapes))
        collection.names = sorted(names)
        return collection

    def objects(self, annotated: Annotated, size: tuple[int, int], report: Report) -> Iterator[Drawn]:
        """The objects of a picture; see `OutlineFormat`."""
        from supervision.dataset.formats.labelme import SUPPORTED_SHAPE_TYPES, labelme_shapes_to_detections

        shapes: Any = annotated.content
        for index, shape in enumerate(shapes):
            name, kind = str(shape["label"]), shape.get("shape_type") or "polygon"
            where = f"{annotated.where}, shape {index} ({name})"
            if kind not in SUPPORTED_SHAPE_TYPES:
                report("no_shape", f"{where}: a {kind}")
                continue
            try:
                points = np.asarray(shape["points"], dtype=np.float64).reshape(-1, 2)
                if not can_be_drawn(
                    points if kind == "polygon" else np.repeat(points, 2, axis=0), size, where, report
                ):
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    drawn = labelme_shapes_to_detections(
                        [{**shape, "label": name, "shape_type": kind}], {name: 0}, size, with_masks=True
                    )
                yield Drawn(name, drawn.mask[0])
            except (ValueError, TypeError, KeyError) as error:
                report("broken_shape", f"{where}: {error}")
