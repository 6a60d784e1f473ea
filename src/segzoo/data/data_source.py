"""The description of a data set's location, and of how it is read."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSource:
    """The location of a data set, and how it is read.

    Attributes:
        name: one of: a folder with `images/{split}` and `annotations/{split}`, or `{split}/images` and
            `{split}/annotations` (any usual spelling of these words; files are matched by their path without
            extension; without split folders everything is "train"); the ADE20K benchmark `ADEChallengeData2016`, or
            its parent folder; Cityscapes: the folder of `leftImg8bit` and `gtFine`, unpacked or as the two official
            zip archives; Pascal VOC: `VOCdevkit`, its parent, or `VOC2012`; CamVid: the original stills and masks in
            colours, or the SegNet tutorial's copy; MIT's lists `training.odgt` and `validation.odgt`, or the folder
            that holds them; a zip archive of any of these, which is not unpacked; a parquet file, a webdataset shard
            (.tar), a pattern such as `shards/*.tar`, or a folder of such files; a folder written by
            `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or another one that `datasets.load_dataset` reads
            (imagefolder with metadata); the name of a data set on the Hub.
        config_name: configuration of a Hub data set.
        streaming: load streams instead of tables: parquet files, shards and Hub data are then read while they are
            used, and not copied into the cache first. See `segzoo.data.SegmentationStream`.
        image_column, label_column: names of the columns of pictures and masks, if these are unusual (Hub, parquet,
            webdataset, saved data).
        image_suffix, label_suffix: ends of the file names in a user's folder before the extension, such as "_photo"
            and "_mask", if these distinguish pictures from masks. Files without them are left out.
        palette: file of the colours that the masks are painted in (`segzoo.data.palettes.read_palette`); black, where it
            is not among them, does not count. None: the masks hold ids, or are of a known layout.
        tile: height and width of the windows that large TIFF files are read by, in pixels; each window is then a
            picture. None reads whole files.
        tile_stride: pixels from one window to the next; None is `tile`, with which every pixel is in one window.
        data_root: folder that the paths in .odgt lists begin at; None is the lists' own folder or the one above it.
        cache_dir, revision, token: arguments of `datasets.load_dataset`.
    """

    name: str | os.PathLike
    _: KW_ONLY
    config_name: str | None = None
    streaming: bool = False
    image_column: str | None = None
    label_column: str | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    palette: str | os.PathLike | None = None
    tile: int | None = None
    tile_stride: int | None = None
    data_root: str | os.PathLike | None = None
    cache_dir: str | None = None
    revision: str | None = None
    token: str | bool | None = None

    @classmethod
    def of(cls, source: DataSource | str | os.PathLike) -> DataSource:
        """A source for a name, with the defaults for everything else; a source is returned unchanged."""
        return source if isinstance(source, cls) else cls(source)

    @property
    def path(self) -> Path:
        """The name as a path, with ~ expanded, whether or not it exists."""
        return Path(self.name).expanduser()

    def __str__(self) -> str:
        return os.fspath(self.name)
