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

from segzoo.data import tables
from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import FileFolder, Folder, open_folder
from segzoo.data.pairing import IMAGE_EXTENSIONS, SPLIT_NAMES, FileSource, PairingProblem, settle
from segzoo.data.sources import EXTENSIONS, LAYOUTS, find_source
from segzoo.errors import SegZooError

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

__all__ = [
    "IMAGE_EXTENSIONS",
    "SPLIT_NAMES",
    "DataSource",
    "PairingProblem",
    "detect_facts",
    "load_id2label",
    "load_segmentation_dataset",
    "load_source",
]

_ID2LABEL = "id2label.json"
_STREAM_PARTS = 64
_LOOKED_FOR = f"{LAYOUTS}; {tables.LAYOUTS}"


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
    """Loads pictures with their masks, lazily: `load_source` with everything as keywords.

    Args:
        source: A folder, a file or a Hub name: `name` of `DataSource`, which lists what can be loaded.
        config_name, streaming, image_column, label_column, image_suffix, label_suffix, data_root, cache_dir, revision,
            token: As in `DataSource`.
        strict, on_problem: As in `load_source`.
    """
    return load_source(
        DataSource(
            source,
            config_name=config_name,
            streaming=streaming,
            image_column=image_column,
            label_column=label_column,
            image_suffix=image_suffix,
            label_suffix=label_suffix,
            data_root=data_root,
            cache_dir=cache_dir,
            revision=revision,
            token=token,
        ),
        strict=strict,
        on_problem=on_problem,
    )


def load_source(
    source: DataSource, *, strict: bool = True, on_problem: Callable[[PairingProblem], None] | None = None
) -> DatasetDict | IterableDatasetDict:
    """Loads pictures with their masks, lazily.

    Args:
        source: Where they are.
        strict: Raise for pictures without mask, masks without picture and several files with one stem; False skips
            them with a warning.
        on_problem: Given, it is called with every file that does not pair up, and nothing of that kind raises or warns.

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

    path = source.path
    if _is_table(path):
        loaded = tables.load_files(source)
    elif not path.exists():
        _refuse_missing(source)
        loaded = tables.load_hub(source)
    else:
        found = _local_source(source)
        if not isinstance(found, Folder):
            loaded = settle(found.list_files(), str(path), strict=strict, on_problem=on_problem)
        elif tables.is_saved(found):
            loaded = tables.load_saved(source)
        elif path.is_dir():
            loaded = tables.load_local(source, _LOOKED_FOR, found.in_words())
        else:
            raise SegZooError(f"{path} holds no known data set: looked for {_LOOKED_FOR}; found {found.in_words()}.")
    if not source.streaming:
        return datasets.DatasetDict(loaded)
    for split, rows in loaded.items():
        if isinstance(rows, datasets.Dataset):  # shuffled in parts, the order varies further than the shuffle buffer
            loaded[split] = rows.to_iterable_dataset(num_shards=min(_STREAM_PARTS, len(rows)))
    return datasets.IterableDatasetDict(loaded)


def detect_facts(source: str | os.PathLike) -> DatasetFacts | None:
    """What is known about the data set behind a source: classes, colours, label rule.

    Args:
        source: `name` of a `DataSource`. Only file names are looked at, and nothing is downloaded.

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
    found = _local_source(DataSource(source))
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


def _refuse_missing(source: DataSource) -> None:
    name, path = str(source), source.path
    is_file = path.suffix.casefold() in (".zip", *EXTENSIONS, *tables.FORMATS)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or is_file:
        raise SegZooError(f"There is no folder or file {path}.")


def _local_source(source: DataSource) -> FileSource | Folder:
    """The pictures and masks in files at a path; the folder itself where there are none."""
    path = source.path
    if path.is_dir() or path.suffix.casefold() == ".zip":
        folder = open_folder(path)
    elif path.suffix.casefold() in EXTENSIONS:
        folder = FileFolder(str(path))
    else:
        loadable = [".zip", *EXTENSIONS, *tables.FORMATS]
        raise SegZooError(
            f"{path} is a file that cannot be loaded; give a folder, or a {', '.join(loadable[:-1])} or {loadable[-1]} file. "
            "Other archives have to be unpacked."
        )
    if path.is_dir() and tables.is_saved(folder):
        return folder
    return find_source(folder, source) or folder
