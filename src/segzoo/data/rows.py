"""Rows of a table or stream of pictures and masks, before they are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segzoo.errors import SegZooError
from segzoo.images.archives import readable

_COLUMNS = ("image", "label", "image_path", "label_path", "label_encoding")


def undecoded(rows: Any) -> Any:
    """The same table or stream, with `{"path", "bytes"}` instead of pictures in `image` and `label`.

    Reading a row then costs little, and whoever decodes it can name a broken file. Columns that neither training nor
    evaluation uses are left out, because they may hold pictures too.

    Args:
        rows: `datasets.Dataset` or `datasets.IterableDataset`; anything else is returned unchanged.

    Raises:
        SegZooError: there is no column `image`.
    """
    features = getattr(rows, "features", None)
    if features is None:
        return rows
    if "image" not in features:
        raise SegZooError(f"The data set has no column 'image'; it has {', '.join(features)}.")
    import datasets

    rows = rows.select_columns([column for column in _COLUMNS if column in features])
    for column in ("image", "label"):
        if isinstance(features.get(column), datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def row_names(row: Mapping[str, Any], index: int) -> tuple[str, str]:
    """Names of the picture and the mask of a row in messages.

    They are the paths of their files; of files inside a table the name and the number of the row, as in "a.png (row
    3)"; or "image of row 3" where there are no names. A file in a zip archive is named as if the archive were a
    folder: "ade20k.zip/images/a.jpg".
    """
    found = []
    for column, what in (("image", "image"), ("label", "mask")):
        path, value = row.get(f"{column}_path"), row.get(column)
        if path:
            found.append(readable(str(path)))
        elif isinstance(value, Mapping) and value.get("path"):
            inside = f" (row {index})" if value.get("bytes") is not None else ""
            found.append(f"{readable(str(value['path']))}{inside}")
        else:
            found.append(f"{what} of row {index}")
    return found[0], found[1]
