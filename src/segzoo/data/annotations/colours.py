"""Masks of colours, whose classes a palette names; also CVAT's export 'Segmentation mask 1.1'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from segzoo.data.annotations.annotated import Annotated, Collection, Report, split_of, stem_of
from segzoo.data.data_source import DataSource
from segzoo.data.decoding import colors_to_ids
from segzoo.data.folders import Folder
from segzoo.data.pairing import FileSource, Listing, pair_by_list, single_files
from segzoo.data.palettes import Palette
from segzoo.data.sources import find_source
from segzoo.errors import SegZooError
from segzoo.images.reading import open_picture, upright

LABEL_MAP = "labelmap.txt"
_UNNAMED = -2


class ColourFormat:
    """Every colour of a mask must be in the palette; black, where it is not, is what is not annotated.

    Args:
        palette: the colours of the classes.
        source: the data as the user described it.
    """

    def __init__(self, palette: Palette, source: DataSource):
        self.palette, self.source = palette, source

    def collect(self, folder: Folder) -> Collection:
        """List the pairs of pictures and masks of colours.

        Raises:
            SegZooError: there are no such pairs.
        """
        listing = self._listing(folder)
        collection = Collection(
            list(self.palette.names),
            has_background=(0, 0, 0) in self.palette.colors,
            meaning=sorted((*color, self.palette.names[index]) for color, index in self.palette.colors.items()),
        )
        for problem in listing.problems:
            kind = "missing_picture" if problem.kind == "mask_without_image" else "no_picture"
            collection.report(kind, f"{problem.kind.replace('_', ' ')}: {' and '.join(problem.files)}")
        for split, files in listing.splits.items():
            for image, label in files.pairs:
                path = image.partition("::")[0].removeprefix("zip://").removeprefix(folder.path).lstrip("/\\")
                path = path.replace("\\", "/")
                content: Any = label
                collection.pictures.append(Annotated(image, split, stem_of(path), label, None, content))
        if not collection.pictures:
            raise SegZooError(f"{folder.path}: no picture has a mask of colours of the same name")
        return collection

    def _listing(self, folder: Folder) -> Listing:
        pictures, masks = folder.child("JPEGImages"), folder.child("SegmentationClass")
        lists = folder.at("ImageSets/Segmentation")
        if pictures is not None and masks is not None and LABEL_MAP in folder.files:
            listing = Listing()
            names = lists.files if lists is not None else {}
            for name in names:
                stems = [line.strip() for line in lists.read_names(name) if line.strip()] if lists is not None else []
                pair_by_list(
                    listing,
                    split_of(name, by_name=True) or "train",
                    stems,
                    single_files(pictures),
                    single_files(masks),
                )
            return listing
        found: FileSource | None = find_source(folder, self.source)
        if found is None:
            raise SegZooError(
                f"{folder.path} has no folder of pictures beside one of masks: put them into images/{{split}} and "
                "annotations/{split}"
            )
        return found.list_files()

    def draw(
        self, annotated: Annotated, size: tuple[int, int], ids: Mapping[str, int], fill: int, report: Report
    ) -> np.ndarray:
        """The mask of a picture; see `Format`.

        Raises:
            SegZooError: the file cannot be read, or holds colours that are in no palette; the message names both.
        """
        mask = open_picture(annotated.content, what="mask")
        try:
            found = colors_to_ids(mask.stored, self.palette.colors, ignore_index=_UNNAMED)
        except SegZooError as error:
            raise SegZooError(f"{mask.name}: {error}") from None
        table = [ids.get(name) for name in self.palette.names]
        result = np.full(found.shape, fill, dtype=np.int32)
        for index, label in enumerate(table):
            if label is not None:
                result[found == index] = label
            elif (found == index).any():
                report("unknown_class", f"{annotated.where}: {self.palette.names[index]!r}")
        return upright(result, mask.orientation)
