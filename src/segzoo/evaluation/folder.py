"""The output folder of an evaluation."""

from pathlib import Path

from segzoo.errors import SegZooError
from segzoo.files import check_folder_place

STATE, PREDICTIONS = "state", "predictions"
"""Subfolders: the scores so far, and a label map for each image."""


def check_output_folder(folder: Path) -> None:
    """Check that an evaluation may write into a folder, which need not exist yet.

    Raises:
        SegZooError: the path is a file, the folder holds other things than an evaluation, or it cannot be written to.
    """
    check_folder_place(folder, option="--output")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).is_dir():
        raise SegZooError(f"--output {folder}: is not empty and holds no evaluation; choose another folder")
