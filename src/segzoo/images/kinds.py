"""What a file that is no picture seems to be, from its first bytes."""

from __future__ import annotations

_STARTS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"CDF", "a NetCDF file"),
    (b"PAR1", "a parquet file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ID3", "an audio file"),
    (b"OggS", "an audio or video file"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file; fetch it with git lfs pull"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"II*\x00", "a damaged TIFF"),
    (b"MM\x00*", "a damaged TIFF"),
    (b"\x89PNG", "a damaged PNG"),
    (b"\xff\xd8\xff", "a damaged JPEG"),
    (b"GIF8", "a damaged GIF"),
    (b"BM", "a damaged BMP"),
)
_PAGES = (b"<!doctype html", b"<html", b"<head")


def seems_to_be(start: bytes) -> str:
    """What a file seems to be, in words.

    Args:
        start: its first bytes, some hundred of them.
    """
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        return {
            b"heic": "a HEIC picture, which Pillow does not read; save it as JPEG or PNG",
            b"mif1": "a HEIF picture, which Pillow does not read; save it as JPEG or PNG",
            b"avif": "an AVIF picture that this Pillow does not read; save it as JPEG or PNG",
        }.get(start[8:12], "a video (MP4 or QuickTime)")
    if start[:4] == b"RIFF":
        return "a damaged WebP" if start[8:12] == b"WEBP" else "a video or audio file (RIFF)"
    if start[128:132] == b"DICM":
        return "a DICOM file; save its picture as PNG or TIFF"
    for mark, words in _STARTS:
        if start.startswith(mark):
            return words
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        return "a web page"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "an SVG drawing; draw it as PNG"
    if text.startswith(b"<?xml"):
        return "XML"
    if _is_text(start):
        return "JSON" if text.startswith((b"{", b"[")) else "text"
    return "of a kind that is not known here"


def _is_text(start: bytes) -> bool:
    try:
        words = start[: len(start) - 3].decode() if len(start) > 16 else start.decode()  # not to cut a character
    except UnicodeDecodeError as error:
        if error.start < len(start) - 7:
            return False
        words = start[: error.start].decode()
    return all(character.isprintable() or character in "\t\r\n\f" for character in words)
