"""The output folder of an evaluation."""

import os
from pathlib import Path

from segzoo.errors import SegZooError

STATE, PREDICTIONS = "state", "predictions"
"""Subfolders: the scores so far, and a label map for each image."""


def check_output_folder(folder: Path) -> None:
    """Check that an evaluation may write into a folder, which need not exist yet.

    Raises:
        SegZooError: the path is a file, the folder holds other things than an evaluation, or it cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise SegZooError(f"--output {folder}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).is_dir():
        raise SegZooError(f"--output {folder}: is not empty and holds no evaluation; choose another folder")
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    if not os.access(there, os.W_OK):
        raise SegZooError(f"--output {folder}: {there} cannot be written to; choose another folder")
