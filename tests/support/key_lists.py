"""The names, shapes and dtypes of the tensors in released checkpoints.

``tests/records/key_lists.json.xz`` holds their state dicts as lists of lines, each ``"key 64x3x7x7 float32"`` (a scalar
has an empty shape) in the original's order, by the SHA-256 of the lines joined with newlines, and the hash of each row
of the zoo. The two files of MIT's models are one list, with the prefixes ``encoder.`` and ``decoder.``.
"""

import hashlib
import json
import lzma
from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def _read() -> dict:
    return json.loads(lzma.decompress((Path(__file__).parents[1] / "records" / "key_lists.json.xz").read_bytes()))


def hashes() -> dict[str, str]:
    """The hash of each row's list, by the row's name."""
    return _read()["rows"]


def key_list(name: str) -> list[str]:
    """The lines of a row."""
    return _read()["lists"][hashes()[name]]


def digest(lines: Sequence[str]) -> str:
    """The hash of a list."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
