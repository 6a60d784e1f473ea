"""Pairs of large TIFF files become pairs of windows, without a file being cut."""

from __future__ import annotations

from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from segzoo.data.data_source import DataSource
from segzoo.data.pairing import Listing
from segzoo.errors import SegZooError
from segzoo.images.archives import file_address, is_address, readable
from segzoo.images.tiff import ORIENTATION, first_number
from segzoo.images.windows import file_size, window_address, windows_of
from segzoo.regular_files import open_regular

_TIFF = (".tif", ".tiff")
_KINDS = {0: "white at 0", 3: "a palette", 4: "a transparency mask", 5: "CMYK", 8: "CIELAB", 9: "ICCLab", 10: "ITULab"}
"""What the values of a TIFF file may be besides grey levels and RGB, by the number of PhotometricInterpretation."""

_PALETTE = 3


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
        SegZooError: a file is no TIFF, lies in an archive or cannot be opened, its windows would not be parts of the picture
            that the whole file is read as, or picture and mask differ in size.
    """
    if source.tile is None:
        return listing
    stride = source.tile if source.tile_stride is None else source.tile_stride
    for files in listing.splits.values():
        pairs = []
        for image, label in files.pairs:
            (height, width), mask_size = (_size(path) for path in (image, label))
            _check_values(image, "picture")
            _check_values(label, "mask")
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


def _check_values(path: str, what: str) -> None:
    """Refuse a file of which windows, whose values are as stored, would not be parts of what the whole file is read as."""
    with open_regular(path) as file:
        orientation = first_number(file, ORIENTATION, 1)
        kind = first_number(file, PHOTOMETRIC_INTERPRETATION, 1)
        bits = first_number(file, BITSPERSAMPLE, 1)
    if orientation != 1:
        raise SegZooError(
            f"{path}: the {what} is stored with orientation {orientation}, which windows of it would keep (--tile); save it upright"
        )
    is_mask = what == "mask"
    if kind in _KINDS and not (is_mask and kind == _PALETTE):
        raise SegZooError(
            f"{path}: windows of a {what} hold its values as stored (--tile), and here these are {_KINDS[kind]}; save it as "
            f"{'class ids' if is_mask else 'grey or RGB (gdal_translate -expand rgb, for a palette)'}, or leave --tile out"
        )
    if bits < 8 and not is_mask:
        raise SegZooError(
            f"{path}: windows of a picture hold its values as stored (--tile), and here these have {bits} bit{'s' * (bits > 1)}; save "
            "it with 8 bits (gdal_translate -ot Byte -scale), or leave --tile out"
        )
