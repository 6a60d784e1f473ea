"""Pairs of picture and mask from any known source, as one `DatasetDict`; and known facts about the source.

Nothing is decoded here: `image` and `label` are lazy `datasets.Image()` columns, and for local files `image_path` and
`label_path` hold their paths. Layouts of files are in `segzoo.data.sources`, tables in `segzoo.data.tables`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.data import tables
from segzoo.data.annotations.recognition import recognise_path
from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import FileFolder, Folder, open_folder
from segzoo.data.label_encodings import palette_encoding
from segzoo.data.mixture import SUFFIXES, Mixture, is_mixture
from segzoo.data.pairing import IMAGE_EXTENSIONS, SPLIT_NAMES, FileSource, PairingProblem, settle
from segzoo.data.prepared import prepared_facts
from segzoo.data.sources import EXTENSIONS, LAYOUTS, find_source
from segzoo.data.tiling import check_tiling, refuse_tiling, tiled
from segzoo.errors import SegZooError
from segzoo.hub_names import hub_or_cache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

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
    """Loads pictures with their masks, lazily: `load_source` with the fields of the source as keywords.

    Args:
        source: a folder, a file or a Hub name, the `name` of a `DataSource`, which lists what can be loaded.
        config_name, streaming, image_column, label_column, image_suffix, label_suffix: fields of the `DataSource`.
        data_root, cache_dir, revision, token: further fields of it.
        strict, on_problem: what to do about files that do not pair up, as in `load_source`.

    Returns:
        splits with columns `image` and `label`, as `load_source` describes.

    Raises:
        SegZooError: nothing usable was found, files do not pair up, or columns cannot be told apart.
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
        source: where the data is and how to read it.
        strict: raise for pictures without mask, masks without picture and several files with one stem; False skips
            them with a warning.
        on_problem: called with every problem of pairing, which then neither raises nor warns; None: `strict` decides.

    Returns:
        `DatasetDict` (`IterableDatasetDict` when streaming) with some of the splits "train", "validation" and "test",
        columns `image` and `label`, and for files `image_path` and `label_path`. Where masks do not hold class ids,
        as in Cityscapes' `*_labelIds.png`, a column `label_encoding` names how they are written, which
        `segzoo.data.decode_example` and `SegmentationDataset` follow. Other columns of tables stay.

    Raises:
        SegZooError: nothing usable was found (the message says what was looked for and what is there), files do not
            pair up, a split is empty, or columns cannot be told apart.
    """
    import datasets

    path = source.path
    if is_mixture(path):
        if source.streaming:
            raise SegZooError(f"{path}: the data sets of a mixture are not streamed; leave out --streaming")
        return Mixture.read(path).load(
            token=source.token, cache_dir=source.cache_dir, strict=strict, on_problem=on_problem
        )
    check_tiling(source)
    if _is_table(path):
        refuse_tiling(source)
        loaded = tables.load_files(source)
    elif not path.exists():
        refuse_tiling(source)
        loaded = tables.load_hub(source)
    else:
        with _annotations_named(path):
            loaded = _load_path(source, strict, on_problem)
    if source.palette is not None:
        loaded = {split: _in_colours(rows, source) for split, rows in loaded.items()}
    if not source.streaming:
        return datasets.DatasetDict(loaded)
    for split, rows in loaded.items():
        if isinstance(rows, datasets.Dataset):  # in parts, whose order varies beyond the reach of the shuffle buffer
            loaded[split] = rows.to_iterable_dataset(num_shards=min(_STREAM_PARTS, len(rows)))
    return datasets.IterableDatasetDict(loaded)


def _in_colours(rows: Dataset | IterableDataset, source: DataSource) -> Dataset:
    """The rows, whose masks are written in the colours of the source's palette."""
    import datasets

    if not isinstance(rows, datasets.Dataset):
        raise SegZooError(f"--palette is for tables and folders, not for the stream {source}; leave out --streaming")
    if "label_encoding" in rows.column_names:  # of a layout whose colours are known; the user knows better
        rows = rows.remove_columns("label_encoding")
    return rows.add_column("label_encoding", [palette_encoding(source.palette).name] * len(rows))


@contextmanager
def _annotations_named(path: Path) -> Iterator[None]:
    """A context whose errors name annotations that are no masks yet, and the command that makes masks of them."""
    try:
        yield
    except SegZooError as error:
        found = recognise_path(path)
        if found is None:
            raise
        raise SegZooError(f"{path} holds {found.words}; {found.fix}. ({error})") from error


def _load_path(source: DataSource, strict: bool, on_problem: Callable[[PairingProblem], None] | None) -> tables.Tables:
    """Tables by split of a folder or file that exists; errors as in `load_source`."""
    path, found = source.path, _local_source(source)
    if not isinstance(found, Folder):
        listing = tiled(found.list_files(), source)
        return settle(listing, str(path), strict=strict, on_problem=on_problem)
    refuse_tiling(source)
    if tables.is_saved(found):
        return tables.load_saved(source)
    if path.is_dir():
        return tables.load_local(source, _LOOKED_FOR, found.in_words())
    raise SegZooError(f"{path} holds no known data set: looked for {_LOOKED_FOR}; found {found.in_words()}.")


def detect_facts(source: str | os.PathLike) -> DatasetFacts | None:
    """The facts of the data set behind a source, if it is recognised: classes, colours, label rule.

    Args:
        source: the `name` of a `DataSource`. Only names and .odgt lists are read, and nothing is downloaded.

    Returns:
        the facts of what `segzoo data prepare` wrote, recognised by its manifest, of ADE20K, Cityscapes, Pascal VOC
        or CamVid, recognised by layout, of ADE20K in an .odgt list, recognised by its paths, and of Hub data sets,
        recognised by name; None for anything else.

    Raises:
        SegZooError: a part of a known data set is missing.
    """
    path = Path(source).expanduser()
    if _is_table(path) or is_mixture(path):
        return None
    if not path.exists():
        name = os.fspath(source)
        return next((facts for facts in DATASETS.values() if name in facts.hub_names), None)
    if (prepared := prepared_facts(path)) is not None:
        return prepared
    with _annotations_named(path):
        found = _local_source(DataSource(source))
    return None if isinstance(found, Folder) else found.facts


def load_id2label(
    source: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None
) -> dict[int, str] | None:
    """Class names that come with a data set.

    They are read from `id2label.json` in the folder, archive or Hub repository, or beside a parquet file or shard, and
    otherwise are those of `detect_facts`.

    Args:
        source: the `name` of a `DataSource`.
        revision, token: revision and token for the Hub.

    Returns:
        class names by id, or None where the data set brings no names.

    Raises:
        SegZooError: the file exists but is not a JSON object of ids and names.
    """
    path = Path(source).expanduser()
    if is_mixture(path):
        return Mixture.read(path).id2label
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
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    with hub_or_cache(name, "dataset", revision=revision, token=token):
        try:
            file = hf_hub_download(name, _ID2LABEL, repo_type="dataset", revision=revision, token=token)
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
            return None
    return Path(file).read_text(encoding="utf-8-sig")


def _is_table(path: Path) -> bool:
    """Whether a path names a parquet file or shard, or is a pattern of such files."""
    return path.suffix.casefold() in tables.FORMATS and (path.is_file() or "*" in path.name)


def _local_source(source: DataSource) -> FileSource | Folder:
    """The pictures and masks in files at a path; the folder itself where no known layout is found."""
    path = source.path
    if path.is_dir() or path.suffix.casefold() == ".zip":
        folder = open_folder(path)
    elif path.suffix.casefold() in EXTENSIONS:
        folder = FileFolder(str(path))
    else:
        loadable = [".zip", *EXTENSIONS, *tables.FORMATS, *SUFFIXES]
        raise SegZooError(
            f"{path} is a file that cannot be loaded; give a folder, or a {', '.join(loadable[:-1])} or {loadable[-1]} file. "
            "Other archives have to be unpacked."
        )
    if path.is_dir() and tables.is_saved(folder):
        return folder
    return find_source(folder, source) or folder
