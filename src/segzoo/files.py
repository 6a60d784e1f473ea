"""Files that are there whole or not at all, and JSON that every reader understands."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: str | os.PathLike, content: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """Write a file aside, wait until the disk has it, and rename it into place.

    A reader sees the old file or the new one, and so does whoever looks after a crash, a full disk or a power cut.

    Args:
        path: the file; its folder exists.
        content: bytes, text (written as UTF-8 with plain newlines), or a function that writes into the open file.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written; an earlier file of this name is left as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def json_text(values: Any, *, indent: int | None = 2) -> str:
    """Values as JSON with a newline at the end; numbers that are not finite become null."""
    return json.dumps(_finite(values), indent=indent, ensure_ascii=False) + "\n"


def slug(text: str) -> str:
    """Text as part of a file name or identifier: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
