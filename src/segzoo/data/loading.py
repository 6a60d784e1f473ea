"""Pairs of picture and mask from a folder, the ADE20K tree, a saved data set or the Hub, as one `DatasetDict`.

Nothing is decoded here: `image` and `label` are lazy `datasets.Image()` columns, and for local files `image_path` and
`label_path` say where they lie.
"""

from __future__ import annotations

import json
import os
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SegZooError
from .facts import DATASETS

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

IMAGE_EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"}
)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_IMAGE_FOLDERS = ("images", "image", "imgs", "img")
_LABEL_FOLDERS = ("annotations", "annotation", "labels", "masks", "mask", "label")
_ADE20K_FOLDER = "ADEChallengeData2016"
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


def load_segmentation_dataset(
    source: str | os.PathLike,
    config_name: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    strict: bool = True,
    cache_dir: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict:
    """Loads pictures with their masks, lazily.

    Args:
        source: One of
            a folder with `images/{split}` and `annotations/{split}` (any usual spelling of the splits, files matched
            by their path without extension; without split folders everything is "train");
            the ADE20K benchmark `ADEChallengeData2016` or its parent folder;
            a folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or one that
            `datasets.load_dataset` reads (parquet, imagefolder with metadata);
            the name of a data set on the Hub.
        config_name: Configuration of a Hub data set.
        image_column, label_column: Columns to use when their names are unusual (Hub and saved data sets).
        image_suffix, label_suffix: What file names end in before the extension, such as "_leftImg8bit" and
            "_gtFine_labelTrainIds", where pictures and masks differ in it. Files without it are not looked at.
        strict: Raise for pictures without mask, masks without picture and several files with one stem; False skips
            them with a warning.
        cache_dir, revision, token: As in `datasets.load_dataset`.

    Returns:
        `DatasetDict` with some of the splits "train", "validation" and "test", columns `image` and `label`, and for
        folders `image_path` and `label_path`. Other columns of Hub data sets stay.

    Raises:
        SegZooError: Nothing usable, unpaired files, an empty split, columns that cannot be told apart.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise SegZooError(f"{path} is a file; give the folder that holds images/ and annotations/.")
    if not path.is_dir():
        text = os.fspath(source)
        if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
            raise SegZooError(f"There is no folder {path}.")
        return _load_from_hub(text, config_name, image_column, label_column, cache_dir, revision, token)
    if _saved_by_datasets(path):
        return _name_columns(_load_saved(path), str(path), image_column, label_column)
    root = _pair_root(path)
    if root is not None:
        return _load_folder(*root, image_suffix, label_suffix, strict)
    return _load_from_hub(str(path), config_name, image_column, label_column, cache_dir, revision, token)


def load_id2label(
    source: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None
) -> dict[int, str] | None:
    """Class names that lie with a data set: `id2label.json` in the folder or Hub repository, or the ADE20K tree's.

    Returns:
        id -> name, or None where the data set brings no names.

    Raises:
        SegZooError: The file is there but is not a JSON object of ids and names.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        file = path / "id2label.json"
        if not file.is_file():
            is_ade20k = path.name == _ADE20K_FOLDER or (path / _ADE20K_FOLDER).is_dir()
            return dict(DATASETS["ade20k"].id2label) if is_ade20k else None
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            file = Path(
                hf_hub_download(
                    os.fspath(source), "id2label.json", repo_type="dataset", revision=revision, token=token
                )
            )
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
            return None
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
        return {int(key): str(value) for key, value in loaded.items()}
    except (ValueError, AttributeError) as error:
        raise SegZooError(f'{file} should be a JSON object such as {{"0": "sky", "1": "road"}}: {error}') from error


# Folders


def _child(folder: Path, names: Iterable[str]) -> Path | None:
    children = {child.name.casefold(): child for child in sorted(folder.iterdir(), reverse=True) if child.is_dir()}
    return next((children[name] for name in names if name in children), None)


def _pair_root(path: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and of masks below `path`, or below the ADE20K tree in it."""
    for root in (path, path / _ADE20K_FOLDER):
        if root.is_dir():
            images, labels = _child(root, _IMAGE_FOLDERS), _child(root, _LABEL_FOLDERS)
            if images is not None and labels is not None:
                return images, labels
            if images is not None and any((child.name.casefold() in SPLIT_NAMES) for child in images.iterdir()):
                raise SegZooError(
                    f"{root} has {images.name}/ but no annotations/ beside it. Put masks into annotations/{{split}}."
                )
    return None


def _splits(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for child in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(child.name.casefold())
        if split is not None and child.is_dir():
            if split in found:
                raise SegZooError(f"{found[split]} and {child} are both the {split} split. Keep one of them.")
            found[split] = child
    return found or {"train": folder}


def _files_by_stem(folder: Path, suffix: str) -> dict[str, list[str]]:
    """Path without extension and suffix, relative and in Unicode's composed form -> the files that have it."""
    found: dict[str, list[str]] = {}
    for directory, subdirectories, files in os.walk(folder, followlinks=True):
        subdirectories[:] = sorted(d for d in subdirectories if not d.startswith("."))
        relative = Path(directory).relative_to(folder).as_posix()
        for name in sorted(files):
            stem, extension = os.path.splitext(name)
            if name.startswith(".") or extension.lower() not in IMAGE_EXTENSIONS or not stem.endswith(suffix):
                continue
            stem = stem[: len(stem) - len(suffix)] if suffix else stem
            key = unicodedata.normalize("NFC", f"{relative}/{stem}" if relative != "." else stem)
            found.setdefault(key, []).append(os.path.join(directory, name))
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _pair(split: str, images: Path, labels: Path, image_suffix: str, label_suffix: str) -> tuple[list, list[str]]:
    """Pairs of one split, and a line for each kind of file that has no single partner."""
    image_files, label_files = _files_by_stem(images, image_suffix), _files_by_stem(labels, label_suffix)
    if not image_files:
        raise SegZooError(f"The {split} split is empty: no picture below {images}.")
    if not label_files:
        raise SegZooError(f"The {split} split has no mask: nothing below {labels} for {len(image_files)} picture(s).")
    problems = []
    for what, files in (("pictures", image_files), ("masks", label_files)):
        double = [f"{stem} ({len(paths)} files)" for stem, paths in files.items() if len(paths) > 1]
        if double:
            problems.append(f"{split}: {len(double)} stem(s) with several {what}: {_few(double)}")
    for what, here, there in (
        ("picture(s) without mask", image_files, label_files),
        ("mask(s) without picture", label_files, image_files),
    ):
        alone = [paths[0] for stem, paths in here.items() if stem not in there]
        if alone:
            problems.append(f"{split}: {len(alone)} {what}: {_few([Path(p).name for p in alone])}")
    lossy = [paths[0] for paths in label_files.values() if paths[0].lower().endswith((".jpg", ".jpeg"))]
    if lossy:
        raise SegZooError(
            f"{split}: {len(lossy)} mask(s) are JPEG, which changes class ids: {_few([Path(p).name for p in lossy])}. "
            "Export masks as PNG."
        )
    pairs = [
        (paths[0], label_files[stem][0])
        for stem, paths in sorted(image_files.items())
        if len(paths) == 1 and len(label_files.get(stem, ())) == 1
    ]
    return pairs, problems


def _load_folder(images: Path, labels: Path, image_suffix: str, label_suffix: str, strict: bool) -> DatasetDict:
    import datasets

    image_splits, label_splits = _splits(images), _splits(labels)
    problems: list[str] = []
    pairs: dict[str, list] = {}
    for split, folder in image_splits.items():
        if split not in label_splits:
            if split == "test":
                warnings.warn(f"The test split is left out: {labels} has no masks for it.", stacklevel=3)
                continue
            raise SegZooError(f"The {split} split has pictures in {folder} but no folder of that name in {labels}.")
        pairs[split], found = _pair(split, folder, label_splits[split], image_suffix, label_suffix)
        problems += found
    for split in label_splits.keys() - image_splits.keys():
        problems.append(f"{split}: masks in {label_splits[split]} but no such folder in {images}")
    if problems and strict:
        raise SegZooError(
            "Pictures and masks do not pair up.\n  " + "\n  ".join(problems) + "\nMend the folder, or load the pairs "
            "that are there with strict=False."
        )
    if problems:
        warnings.warn("Skipped files that do not pair up.\n  " + "\n  ".join(problems), stacklevel=3)
    if not pairs:
        raise SegZooError(f"No split with pictures and masks below {images.parent}.")
    result = {}
    for split in ("train", "validation", "test"):
        if split not in pairs:
            continue
        if not pairs[split]:
            raise SegZooError(f"The {split} split is empty: no picture in {image_splits[split]} has a mask.")
        image_paths, label_paths = (list(column) for column in zip(*pairs[split], strict=True))
        table = datasets.Dataset.from_dict(
            {"image": image_paths, "label": label_paths, "image_path": image_paths, "label_path": label_paths}
        )
        result[split] = table.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())
    return datasets.DatasetDict(result)


# Data sets of the `datasets` library


def _saved_by_datasets(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _load_saved(path: Path) -> DatasetDict:
    import datasets

    loaded = datasets.load_from_disk(str(path))
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"train": loaded})


def _load_from_hub(
    name: str,
    config_name: str | None,
    image_column: str | None,
    label_column: str | None,
    cache_dir: str | None,
    revision: str | None,
    token: str | bool | None,
) -> DatasetDict:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config_name, cache_dir=cache_dir, revision=revision, token=token)
    except Exception as error:  # the library raises many kinds; the user needs one line that says what was asked for
        if os.path.isdir(name):
            raise SegZooError(
                f"{name} holds neither images/ and annotations/ nor the ADE20K tree, and `datasets` cannot read it: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        raise SegZooError(
            f"No folder {name!r} here, and loading it from the Hub failed: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    return _name_columns(loaded, name, image_column, label_column)


def _find_column(dataset: Dataset, source: str, what: str, wanted: str | None, usual: tuple[str, ...]) -> str:
    import datasets

    features = dataset.features
    if wanted is not None:
        if wanted not in features:
            raise SegZooError(f"{source} has no column {wanted!r}; it has {', '.join(features)}.")
        return wanted
    for name in usual:
        if isinstance(features.get(name), datasets.Image):
            return name
    listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    raise SegZooError(
        f"{source}: no column looks like the {what}. Columns: {listed}. Name it with {what}_column=... "
        f"({what} columns hold pictures; usual names are {', '.join(usual[:4])})."
    )


def _name_columns(loaded: Mapping, source: str, image_column: str | None, label_column: str | None) -> DatasetDict:
    import datasets

    result = {}
    for split, dataset in loaded.items():
        image = _find_column(dataset, source, "image", image_column, _IMAGE_COLUMNS)
        label = _find_column(dataset, source, "label", label_column, _LABEL_COLUMNS)
        if len(dataset) == 0:
            raise SegZooError(f"{source}: the {split} split is empty.")
        for column, target in ((image, "image"), (label, "label")):
            if column != target:
                if target in dataset.column_names:
                    dataset = dataset.rename_column(target, f"original_{target}")
                dataset = dataset.rename_column(column, target)
            if not isinstance(dataset.features[target], datasets.Image):
                dataset = dataset.cast_column(target, datasets.Image())
        result[SPLIT_NAMES.get(split, split)] = dataset
    return datasets.DatasetDict(result)
