"""Files and folders that exist whole or not at all, checks of places for results, locks, and JSON for every reader."""

from segzoo.files.locks import LOCK, FolderInUse, lock
from segzoo.files.outputs import (
    check_file_place,
    check_folder_is_free,
    check_folder_place,
    check_room,
    write_errors_of,
)
from segzoo.files.texts import json_text, slug
from segzoo.files.whole import (
    moved_together,
    remove_abandoned,
    remove_folder,
    sha256_of,
    whole_folder,
    write_whole,
)

__all__ = [
    "LOCK",
    "FolderInUse",
    "check_file_place",
    "check_folder_is_free",
    "check_folder_place",
    "check_room",
    "json_text",
    "lock",
    "moved_together",
    "remove_abandoned",
    "remove_folder",
    "sha256_of",
    "slug",
    "whole_folder",
    "write_errors_of",
    "write_whole",
]
