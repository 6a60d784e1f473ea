"""Pairs of picture and mask from any known source, as one `DatasetDict`; and what is known about the source.

Nothing is decoded here: `image` and `label` are lazy `datasets.Image()` columns, and for local files `image_path` and
`label_path` say where they lie. The kinds of sources are in `segzoo.data.sources`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.sources import LAYOUTS, FileSource, find_source, odgt, tables
from segzoo.data.sources.folders import Folder, open_folder
from segzoo.data.sources.pairing import IMAGE_EXTENSIONS, SPLIT_NAMES, PairingProblem, settle
from segzoo.errors import SegZooError

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

__all__ = [
    "IMAGE_EXTENSIONS",
    "SPLIT_NAMES",
    "PairingProblem",
    "detect_facts",
    "load_id2label",
    "load_segmentation_dataset",
]

_ID2LABEL = "id2label.json"
_STREAM_PARTS = 64


def load_segmentation_dataset(
    source: str | os.PathLike,
    config_name: str | None = None,
    *,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    data_root: str | os.PathLike | None = None,
    strict: bool = True,
    on_problem: Callable[[PairingProblem], None] | None = None,
    cache_dir: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Loads pictures with their masks, lazily.

    Args:
        source: One of
            a folder with `images/{split}` and `annotations/{split}`, or `{split}/images` and `{split}/annotations` (any
            usual spelling of these words; files are matched by their path without extension; without split folders
            everything is "train");
            the ADE20K benchmark `ADEChallengeData2016`, or its parent folder;
            Cityscapes: the folder of `leftImg8bit` and `gtFine`, unpacked or as the two official zip archives;
            Pascal VOC: `VOCdevkit`, its parent, or `VOC2012`;
            CamVid: the original stills and masks in colours, or the SegNet tutorial's copy;
            MIT's lists `training.odgt` and `validation.odgt`, or the folder that holds them;
            a zip archive of any of these, which is not unpacked;
            a parquet file, a webdataset shard (.tar), a pattern such as `shards/*.tar`, or a folder of such files;
            a folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or another one that
            `datasets.load_dataset` reads (imagefolder with metadata);
            the name of a data set on the Hub.
        config_name: Configuration of a Hub data set.
        streaming: Give streams instead of tables: parquet files, shards and Hub data are then read while they are used, and
            not copied into the cache first. See `segzoo.data.SegmentationStream`.
        image_column, label_column: Columns to use when their names are unusual (Hub, parquet, webdataset, saved data).
        image_suffix, label_suffix: What file names of a user's folder end in before the extension, such as "_photo" and
            "_mask", where pictures and masks differ in it. Files without it are not looked at.
        data_root: Folder that the paths in .odgt lists begin at; None: the lists' own folder or the one above it.
        strict: Raise for pictures without mask, masks without picture and several files with one stem; False skips
            them with a warning.
        on_problem: Given, it is called with every file that does not pair up, and nothing of that kind raises or warns.
        cache_dir, revision, token: As in `datasets.load_dataset`.

    Returns:
        `DatasetDict` (`IterableDatasetDict` when streaming) with some of the splits "train", "validation" and "test",
        columns `image` and `label`, and for files `image_path` and `label_path`. Where masks do not hold class ids as
        they are, as in Cityscapes' `*_labelIds.png`, a column `label_encoding` says how they are written;
        `segzoo.data.decode_example` and `SegmentationDataset` heed it. Other columns of tables stay.

    Raises:
        SegZooError: Nothing usable (the message says what was looked for and what is there), unpaired files, an empty
            split, columns that cannot be told apart.
    """
    import datasets

    root = None if data_root is None else Path(data_root).expanduser()
    options = tables.TableOptions(config_name, image_column, label_column, streaming, cache_dir, revision, token)
    path, name = Path(source).expanduser(), os.fspath(source)
    if _is_table(path):
        loaded = tables.load_files(path, options)
    elif not path.exists():
        _refuse_missing(path, name)
        loaded = tables.load_hub(name, options)
    else:
        found = _local_source(path, image_suffix, label_suffix, root)
        if not isinstance(found, Folder):
            loaded = settle(found.list_files(), str(path), strict=strict, on_problem=on_problem)
        elif tables.is_saved(found):
            loaded = tables.load_saved(path, options)
        elif path.is_dir():
            loaded = tables.load_local(path, options, LAYOUTS, found.in_words())
        else:
            raise SegZooError(f"{path} holds no known data set: looked for {LAYOUTS}; found {found.in_words()}.")
    if not streaming:
        return datasets.DatasetDict(loaded)
    for split, rows in loaded.items():
        if isinstance(rows, datasets.Dataset):  # shuffled in parts, the order varies further than the shuffle buffer
            loaded[split] = rows.to_iterable_dataset(num_shards=min(_STREAM_PARTS, len(rows)))
    return datasets.IterableDatasetDict(loaded)


def detect_facts(source: str | os.PathLike) -> DatasetFacts | None:
    """What is known about the data set behind a source: classes, colours, label rule.

    Args:
        source: As in `load_segmentation_dataset`. Only file names are looked at, and nothing is downloaded.

    Returns:
        The facts of ADE20K, Cityscapes, Pascal VOC or CamVid by their layout, of an .odgt list by its paths, of a Hub data
        set by its name; None for anything else.

    Raises:
        SegZooError: A known data set with a part missing.
    """
    path = Path(source).expanduser()
    if _is_table(path):
        return None
    if not path.exists():
        name = os.fspath(source)
        return next((facts for facts in DATASETS.values() if name in facts.hub_names), None)
    found = _local_source(path)
    return None if isinstance(found, Folder) else found.facts


def load_id2label(
    source: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None
) -> dict[int, str] | None:
    """Class names that lie with a data set: `id2label.json` in the folder, archive or Hub repository, or beside a parquet
    file or shard; else those of `detect_facts`.

    Returns:
        id -> name, or None where the data set brings no names.

    Raises:
        SegZooError: The file is there but is not a JSON object of ids and names.
    """
    path = Path(source).expanduser()
    text = None
    place = path.parent if _is_table(path) else path
    if not place.exists():
        text = _id2label_on_hub(os.fspath(source), revision, token)
    elif place.is_dir() or place.suffix.casefold() == ".zip":
        folder = open_folder(place)
        text = folder.read_text(_ID2LABEL) if _ID2LABEL in folder.files else None
    if text is None:
        facts = detect_facts(source)
        return None if facts is None else facts.id2label
    try:
        return {int(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise SegZooError(
            f'{_ID2LABEL} of {source} should be a JSON object such as {{"0": "sky", "1": "road"}}: {error}'
        ) from error


def _id2label_on_hub(name: str, revision: str | None, token: str | bool | None) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(name, _ID2LABEL, repo_type="dataset", revision=revision, token=token)
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None
    return Path(file).read_text(encoding="utf-8")


def _is_table(path: Path) -> bool:
    """Whether a path names parquet files or shards, one or a pattern of many."""
    return path.suffix.casefold() in tables.FORMATS and (path.is_file() or "*" in path.name)


def _refuse_missing(path: Path, name: str) -> None:
    is_file = path.suffix.casefold() in (".zip", odgt.EXTENSION, *tables.FORMATS)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or is_file:
        raise SegZooError(f"There is no folder or file {path}.")


def _local_source(
    path: Path, image_suffix: str = "", label_suffix: str = "", data_root: Path | None = None
) -> FileSource | Folder:
    """The source of files at a path; the folder itself where there is none."""
    if path.is_file() and path.suffix.casefold() == odgt.EXTENSION:
        return odgt.odgt_lists([str(path)], data_root)
    if path.is_file() and path.suffix.casefold() != ".zip":
        raise SegZooError(
            f"{path} is a file that cannot be loaded; give a folder, or a .zip, .odgt, .parquet or .tar file. Other archives "
            "have to be unpacked."
        )
    folder = open_folder(path)
    if path.is_dir() and tables.is_saved(folder):
        return folder
    found = find_source(folder, image_suffix=image_suffix, label_suffix=label_suffix, data_root=data_root)
    return folder if found is None else found
