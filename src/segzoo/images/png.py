"""PNG files in a fraction of the time that Pillow takes, with the same pixels."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from segzoo.files import write_whole

_LEVEL = 4
_ROWS = 2**20  # bytes of rows that are compressed at once


def write_png(path: str | Path, picture: Image.Image) -> Path:
    """Write a picture as a PNG, whole or not at all; its folder exists. Returns the path.

    Of 8 bits only runs of equal bytes are compressed. That is fast, and of photographs, drawings and label maps also
    smaller than what zlib's search for longer repetitions finds in its first levels.
    """
    if picture.mode == "RGB":
        return write_whole(path, rgb_png(np.asarray(picture)))
    strategy = zlib.Z_RLE if picture.mode in ("L", "P") else zlib.Z_DEFAULT_STRATEGY
    return write_whole(
        path, lambda file: picture.save(file, format="PNG", compress_level=_LEVEL, compress_type=strategy)
    )


def rgb_png(picture: np.ndarray) -> bytes:
    """The content of a PNG file of a picture, uint8 (height, width, 3), each row as its difference from the row above.

    Pillow tries five such filters on every row, which takes longer than to compress it, and gains a tenth of the size.
    """
    height, width = picture.shape[:2]
    rows = picture.reshape(height, 3 * width)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    step, content = max(1, _ROWS // (3 * width)), []
    for first in range(0, height, step):
        part = rows[first : first + step]
        above = rows[first - 1 : first - 1 + len(part)] if first else np.vstack([np.zeros_like(part[:1]), part[:-1]])
        filtered = np.empty((len(part), 3 * width + 1), dtype=np.uint8)
        filtered[:, 0] = 2  # the filter "up"
        np.subtract(part, above, out=filtered[:, 1:])
        content.append(compressor.compress(filtered))
    content.append(compressor.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", b"".join(content)), (b"IEND", b""))
    )
