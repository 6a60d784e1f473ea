"""Pairs of large TIFF files become pairs of windows, without a file being cut."""

from __future__ import annotations

from segzoo.data.data_source import DataSource
from segzoo.data.pairing import Listing
from segzoo.errors import SegZooError
from segzoo.images.archives import file_address, is_address, readable
from segzoo.images.windows import file_size, window_address, windows_of

_TIFF = (".tif", ".tiff")


def check_tiling(source: DataSource) -> None:
    """Check the sizes of tiles.

    Raises:
        SegZooError: a size is below 1, there is a stride without a tile, or it is larger than the tile.
    """
    if source.tile is None:
        if source.tile_stride is not None:
            raise SegZooError(
                f"--tile_stride {source.tile_stride} is for --tile, which is missing; give both or neither"
            )
        return
    if source.tile < 1:
        raise SegZooError(f"--tile is {source.tile}; it must be 1 or more")
    if source.tile_stride is not None and not 1 <= source.tile_stride <= source.tile:
        raise SegZooError(
            f"--tile_stride is {source.tile_stride}; it must be from 1 to --tile ({source.tile}), or pixels are left out"
        )


def refuse_tiling(source: DataSource) -> None:
    """Refuse tiles for what is no folder of pictures and masks.

    Raises:
        SegZooError: the source has a size of tiles.
    """
    if source.tile is not None:
        raise SegZooError(f"--tile reads windows of TIFF files in folders, which {source} is not; leave it out")


def tiled(listing: Listing, source: DataSource) -> Listing:
    """The listing with windows in the place of files, row by row of each file, if the source has a size of tiles.

    Only headers are read.

    Raises:
        SegZooError: a file is no TIFF, lies in an archive or cannot be opened, or picture and mask differ in size.
    """
    if source.tile is None:
        return listing
    stride = source.tile if source.tile_stride is None else source.tile_stride
    for files in listing.splits.values():
        pairs = []
        for image, label in files.pairs:
            (height, width), mask_size = (_size(path) for path in (image, label))
            if mask_size != (height, width):
                raise SegZooError(
                    f"Image and mask differ in size: {image} is {width}x{height} (width x height), {label} is "
                    f"{mask_size[1]}x{mask_size[0]}. Export the mask at that size, unsmoothed."
                )
            pairs += [
                (window_address(file_address(image), *window), window_address(file_address(label), *window))
                for window in windows_of(height, width, source.tile, stride)
            ]
        files.pairs = pairs
    return listing


def _size(path: str) -> tuple[int, int]:
    if is_address(path) or not path.lower().endswith(_TIFF):
        raise SegZooError(
            f"{readable(path)}: --tile reads windows of unpacked TIFF files alone, pictures and masks; save it as one (gdal_translate "
            "-co TILED=YES -co COMPRESS=DEFLATE), or leave --tile out"
        )
    return file_size(path)
