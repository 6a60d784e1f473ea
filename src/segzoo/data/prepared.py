"""Folders that `segzoo data prepare` wrote, or `segzoo.data.scenes`: images/{split}, annotations/{split}, and a manifest that
names the data set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from segzoo.data.facts import DATASETS, DatasetFacts

MANIFEST = "manifest.json"
"""A JSON object in the folder; its entry ``dataset`` is the name of the data set in `segzoo.data.DATASETS`."""


def prepared_facts(folder: str | os.PathLike) -> DatasetFacts | None:
    """The facts of the data set in a folder, by its manifest; None for a folder without one, or another program's."""
    file = Path(folder).expanduser() / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    name = content.get("dataset") if isinstance(content, dict) else None
    return DATASETS.get(name) if isinstance(name, str) else None
