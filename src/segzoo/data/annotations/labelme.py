"""LabelMe: a JSON beside each picture, with polygons and rectangles."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from segzoo.data.annotations.annotated import (
    Annotated,
    Collection,
    Drawn,
    PictureFiles,
    Report,
    outline_fault,
    paint,
    require_supervision,
    split_of,
    stem_of,
)
from segzoo.data.annotations.recognition import LABELME, files_of
from segzoo.data.folders import Folder
from segzoo.errors import SegZooError
from segzoo.images.archives import read_address


class LabelMeFormat:
    """Shapes are painted in the order of the file, as LabelMe's own script does; classes are sorted by name."""

    def collect(self, folder: Folder) -> Collection:
        """List the pictures of all JSON files of the folder.

        Raises:
            SegZooError: there is no such file.
        """
        require_supervision()
        files = files_of(folder, LABELME)
        if not files:
            raise SegZooError(f"{folder.path} holds no file of LabelMe: a JSON with shapes and imagePath")
        collection, pictures = Collection(), PictureFiles(folder)
        names: set[str] = set()
        taken: set[str] = set()
        for path, address in files.items():
            try:
                content = json.loads(read_address(address))
                shapes, name = list(content["shapes"]), str(content["imagePath"])
                names.update(str(shape["label"]) for shape in shapes)
            except (OSError, ValueError, KeyError, TypeError) as error:
                collection.report("unreadable_file", f"{path}: {type(error).__name__}: {error}")
                continue
            found = pictures.find(name, path)
            if len(found) > 1:  # the name of the JSON settles which of several folders is meant
                found = [f for f in found if f.rpartition(".")[0] == path.rpartition(".")[0]] or found
            if len(found) != 1:
                collection.report("ambiguous_picture" if found else "missing_picture", f"{path}, {name}")
                continue
            if found[0] in taken:
                collection.report("twice", f"{path}, {name}")
                continue
            taken.add(found[0])
            size = None
            if content.get("imageWidth") and content.get("imageHeight"):
                size = int(content["imageWidth"]), int(content["imageHeight"])
            collection.pictures.append(
                Annotated(pictures.addresses[found[0]], split_of(found[0]), stem_of(found[0]), path, size, shapes)
            )
        collection.names = sorted(names)
        return collection

    def draw(
        self, annotated: Annotated, size: tuple[int, int], ids: Mapping[str, int], fill: int, report: Report
    ) -> np.ndarray:
        """The mask of a picture; see `Format`."""
        objects = self._objects(annotated, size, report)
        return paint(objects, size, ids, fill, report, annotated.where)

    def _objects(self, annotated: Annotated, size: tuple[int, int], report: Report) -> Iterator[Drawn]:
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
                fault = outline_fault(points if kind == "polygon" else np.repeat(points, 2, axis=0), size)
                if fault is not None:
                    report(fault, where)
                if fault not in (None, "partly_outside"):
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    drawn = labelme_shapes_to_detections(
                        [{**shape, "label": name, "shape_type": kind}], {name: 0}, size, with_masks=True
                    )
                yield Drawn(name, drawn.mask[0])
            except (ValueError, TypeError, KeyError) as error:
                report("broken_shape", f"{where}: {error}")
