"""Tables that the `datasets` library reads: the Hub, parquet files, webdataset shards, folders that it saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.data.data_source import DataSource
from segzoo.data.folders import Folder
from segzoo.data.pairing import SPLIT_NAMES
from segzoo.errors import SegZooError, first_line
from segzoo.hub_names import hub_or_cache
from segzoo.regular_files import refuse_special

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Tables = dict[str, Dataset | IterableDataset]

LAYOUTS = "parquet files, webdataset shards (.tar), a folder saved by `datasets`"
FORMATS = {".parquet": "parquet", ".tar": "webdataset"}

_IMAGE_COLUMNS = ("image", "images", "img", "picture", "pixel_values")
_LABEL_COLUMNS = (
    "label",
    "annotation",
    "mask",
    "labels",
    "annotations",
    "masks",
    "segmentation",
    "segmentation_mask",
    "semantic_mask",
    "semantic_segmentation",
    "label_map",
    "labelmap",
    "semantic",
    "scene_mask",
    "scene_category_mask",
)
# Columns of webdataset shards are named after the extensions of their members.
_PHOTOGRAPHS = ("jpg", "jpeg", "webp", "png", "tif", "tiff", "bmp", "ppm")
_LOSSLESS = ("png", "tif", "tiff", "bmp", "pgm")
_LABEL_WORDS = ("seg", "mask", "label", "annot", "semantic", "gt")


def is_saved(folder: Folder) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return bool({"dataset_dict.json", "state.json"} & folder.files.keys())


def load_saved(source: DataSource) -> Tables:
    """Loads a folder that `datasets` saved; a single table becomes the train split.

    Raises:
        SegZooError: the folder cannot be loaded, a split is empty, or columns cannot be told apart.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(source.path))
    except Exception as error:  # the library raises many kinds, here and below
        raise SegZooError(
            f"{source.path} was saved by `datasets` but cannot be loaded: {first_line(error)}"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        loaded = {"train": loaded}
    return _name_columns(loaded, str(source.path), source)


def load_files(source: DataSource) -> Tables:
    """Loads one parquet file or webdataset shard, or all that fit a pattern with *.

    Words such as "train" and "val" in the file names determine the splits; files without one are of the train split.

    Args:
        source: a source whose path has an extension in `FORMATS`.

    Raises:
        SegZooError: there is no such file, a file cannot be read, or columns cannot be told apart.
    """
    pattern = source.path
    files = sorted(pattern.parent.glob(pattern.name)) if "*" in pattern.name else [pattern]
    if not files:
        raise SegZooError(f"There is no file {pattern}.")
    for file in files:
        refuse_special(file)
    by_split: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", file.name.casefold())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")
        by_split.setdefault(split, []).append(str(file))
    return _load(FORMATS[pattern.suffix.casefold()], str(pattern), source, data_files=by_split)


def load_local(source: DataSource, looked_for: str, found: str) -> Tables:
    """Loads a folder that `datasets.load_dataset` can read.

    Args:
        source: the folder.
        looked_for, found: the layouts that did not fit and the contents of the folder, in words, for the error
            message.

    Raises:
        SegZooError: the folder cannot be read, or columns cannot be told apart.
    """
    try:
        return _load(str(source.path), str(source.path), source)
    except SegZooError as error:
        raise SegZooError(f"{error} Looked for {looked_for}; found {found}.") from error


def load_hub(source: DataSource) -> Tables:
    """Loads a data set from the Hub, or from the cache where it has been loaded before.

    Raises:
        SegZooError: the data set cannot be loaded, or columns cannot be told apart.
    """
    name = str(source)
    try:
        with hub_or_cache(name, "dataset", revision=source.revision, token=source.token):
            loaded = _read(name, source)
    except SegZooError:
        raise
    except Exception as error:
        raise SegZooError(
            f"No folder {name!r} here, and loading it from the Hub failed: {first_line(error)}"
        ) from error
    return _name_columns(loaded, name, source)


def _load(name: str, where: str, source: DataSource, **files: Any) -> Tables:
    try:
        loaded = _read(name, source, **files)
    except Exception as error:
        raise SegZooError(f"{where} cannot be read: {first_line(error)}") from error
    return _name_columns(loaded, where, source)


def _read(name: str, source: DataSource, **files: Any) -> Tables:
    import datasets

    return datasets.load_dataset(
        name,
        source.config_name,
        cache_dir=source.cache_dir,
        revision=source.revision,
        token=source.token,
        streaming=source.streaming,
        **files,
    )


def _holds_pictures(feature: Any) -> bool:
    """Whether a column of this type can hold pictures: as `datasets.Image`, as bytes, or as bytes with a path."""
    import datasets

    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, Mapping) and "bytes" in feature


def _find_columns(features: Mapping[str, Any], where: str, source: DataSource) -> tuple[str, str]:
    """The names of the columns of pictures and of masks: the user's, usual names, or the only ones that can be."""
    for wanted in (source.image_column, source.label_column):
        if wanted is not None and wanted not in features:
            raise SegZooError(f"{where} has no column {wanted!r}; it has {', '.join(features)}.")
    pictures = [name for name, feature in features.items() if _holds_pictures(feature)]
    label = source.label_column or next((name for name in _LABEL_COLUMNS if name in pictures), None)
    image = source.image_column or next((name for name in _IMAGE_COLUMNS if name in pictures), None)
    if label is None:
        lossless = [name for name in pictures if name != image and name.casefold().rpartition(".")[2] in _LOSSLESS]
        named = [name for name in lossless if name.casefold().startswith(_LABEL_WORDS)]
        bare = [name for name in lossless if "." not in name and len(pictures) == 2]
        label = next(iter(named or bare), None)
    if image is None:
        left = {name.casefold(): name for name in pictures if name != label}
        image = next((left[name] for name in _PHOTOGRAPHS if name in left), None)
        image = image or next((column for name, column in left.items() if name.startswith(_IMAGE_COLUMNS)), None)
    for what, name, usual in (("image", image, _IMAGE_COLUMNS), ("label", label, _LABEL_COLUMNS)):
        if name is None:
            listed = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
            raise SegZooError(
                f"{where}: no column looks like the {what}. Columns: {listed}. Name it with {what}_column=... "
                f"({what} columns hold pictures; usual names are {', '.join(usual[:4])})."
            )
    return image, label


def _name_columns(loaded: Mapping[str, Any], where: str, source: DataSource) -> Tables:
    import datasets

    result = {}
    for split, table in loaded.items():
        if isinstance(table, datasets.IterableDataset) and table.features is None:
            table = table._resolve_features()
        image, label = _find_columns(table.features, where, source)
        if isinstance(table, datasets.Dataset) and len(table) == 0:
            raise SegZooError(f"{where}: the {split} split is empty.")
        table = _renamed(table, {image: "image", label: "label"}, where)
        result[SPLIT_NAMES.get(split, split)] = table
    return result


def _renamed(table: Dataset | IterableDataset, names: Mapping[str, str], where: str) -> Dataset | IterableDataset:
    """The table with its picture columns under other names, as `datasets.Image()`.

    A stream would decode and encode every picture anew to rename its columns, so decoding is switched off meanwhile.
    """
    import datasets

    names = {column: target for column, target in names.items() if column != target}
    taken = {target: f"original_{target}" for target in names.values() if target in table.column_names}
    new_names = {column: {**names, **taken}.get(column, column) for column in table.column_names}
    decoded = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if names:
        for column in decoded:
            table = table.cast_column(column, datasets.Image(decode=False))
        for part in (taken, names):
            table = table.rename_columns(part) if part else table
    # In one order, which the fingerprint of `datasets` depends on.
    for column in dict.fromkeys([*(new_names[column] for column in decoded), "image", "label"]):
        if table.features[column] != datasets.Image():
            try:
                table = table.cast_column(column, datasets.Image())
            except (TypeError, ValueError) as error:
                raise SegZooError(
                    f"{where}: the {column} column does not hold pictures: {first_line(error)}"
                ) from error
    return table
