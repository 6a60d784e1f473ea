"""The folder that an evaluation writes into."""

import os
from pathlib import Path

from segzoo.errors import SegZooError

STATE, PREDICTIONS = "state", "predictions"
"""Its subfolders: the scores so far, and a label map for each image."""


def check_output_folder(folder: Path) -> None:
    """Refuse a path that is no folder, a folder with other things in it, or one that cannot be written to.

    Raises:
        SegZooError: what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise SegZooError(f"--output {folder}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).is_dir():
        raise SegZooError(f"--output {folder}: is not empty and holds no evaluation; choose another folder")
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    if not os.access(there, os.W_OK):
        raise SegZooError(f"--output {folder}: {there} cannot be written to; choose another folder")
