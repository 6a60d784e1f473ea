"""Pictures whose file names are no UTF-8, or no ASCII, and classes to match."""

import json
import os
import shutil
from pathlib import Path

ODD = (b"\xff\xfe 0", b"a\xe9 <b>1", "道路é 2".encode())
"""The first names of each part: two that are no UTF-8, and one that is no ASCII."""


def copy_with_odd_names(scenes: Path, target: Path, names=ODD) -> Path:
    """A copy of some scenes, the first of each part with odd names; class 0 is called 道路."""
    data = shutil.copytree(scenes, target)
    for kind in ("images", "annotations"):
        for split in ("train", "validation"):
            for path, name in zip(sorted((data / kind / split).iterdir()), names, strict=False):
                os.rename(path, path.with_name(os.fsdecode(name + os.fsencode(path.suffix))))
    file = data / "id2label.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "0": "道路"}, ensure_ascii=False), "utf-8")
    return data
