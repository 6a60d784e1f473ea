"""JPEG and PNG files that hold a picture and nothing else of interest, known from their bytes.

A data set holds little else, and Pillow takes a tenth of the time of decoding a small picture to find the same out.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 8
"""Number of the first bytes of a file that tell whether it may be a plain one."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_GREY = 0  # the type of colour in the header of a PNG file
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive
# JFIF's own segment; tables of quantisation, codes and restarts; comments.
_WITHOUT_MEANING = frozenset({0xE0, 0xDB, 0xC4, 0xDD, 0xFE})
_START_OF_SCAN, _PROFILE = 0xDA, 0xE2


@dataclass(frozen=True)
class PlainFile:
    """A plain file: it is not to be turned, and holds one picture.

    Attributes:
        format: Pillow's name of the file format, "JPEG" or "PNG".
        mode: Pillow's mode, "RGB" or "L".
        size: (width, height).
    """

    format: str
    mode: str
    size: tuple[int, int]


def may_be_plain(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a JPEG or PNG file."""
    return start[:3] == _JPEG or start == _PNG


def plain_file(content: bytes | bytearray) -> PlainFile | None:
    """What a file is, if it is a JPEG file in colour of 8 bits or a PNG file in grey of 2 to 8, and plain.

    Args:
        content: the whole file.

    Returns:
        None for every other file, such as those with EXIF or XMP data, which may turn the picture, and for those whose
        header is broken; what follows the header is not looked at.
    """
    if content[:3] == _JPEG:
        return _plain_jpeg(content)
    return _plain_png(content) if content[:8] == _PNG else None


def _plain_png(content: bytes | bytearray) -> PlainFile | None:
    length, depth, colour = content[8:12], content[24:25], content[25:26]
    if length != b"\0\0\0\x0d" or content[12:16] != b"IHDR" or len(content) < 33:
        return None
    if depth not in (b"\2", b"\4", b"\x08") or colour != bytes([_GREY]):
        return None
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    return PlainFile("PNG", "L", (width, height)) if width and height else None


def _plain_jpeg(content: bytes | bytearray) -> PlainFile | None:
    found, place, end = None, 2, len(content) - 10
    while place < end and content[place] == 0xFF:
        marker = content[place + 1]
        length = content[place + 2] << 8 | content[place + 3]
        if marker == _START_OF_SCAN:
            return found
        if marker in _FRAMES:
            height = content[place + 5] << 8 | content[place + 6]
            width = content[place + 7] << 8 | content[place + 8]
            if found is not None or (content[place + 4], content[place + 9]) != (8, 3) or not (width and height):
                return None
            found = PlainFile("JPEG", "RGB", (width, height))
        elif marker not in _WITHOUT_MEANING and not (
            marker == _PROFILE and content[place + 4 : place + 16] == b"ICC_PROFILE\0"
        ):
            return None
        place += 2 + length
    return None
