"""Texts that every reader understands: JSON without NaN, and names for files."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from segzoo.text import json_escapes


def json_text(values: Any, *, indent: int | None = 2) -> str:
    """Values as JSON with a newline at the end; NaN and infinite numbers become null, control codes are escaped."""
    return json_escapes(json.dumps(_finite(values), indent=indent, ensure_ascii=False)) + "\n"


def slug(text: str) -> str:
    """Text for a file name or identifier: lower-case ASCII letters, digits and dashes, or ``"unnamed"``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
