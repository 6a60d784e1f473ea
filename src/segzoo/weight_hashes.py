"""Hashes of a model folder's weights, written with every save and compared when segzoo loads the folder.

``model.safetensors.sha256`` has the format of the program sha256sum: ``sha256sum -c model.safetensors.sha256`` checks
the folder too. Neither transformers nor safetensors reads it. A large file is hashed once: its hash is remembered by
path, size and time of the last change.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import constants

from segzoo.errors import SegZooError
from segzoo.files import sha256_of, write_whole

HASHES = "model.safetensors.sha256"
"""Name of the file with the hashes."""

_WEIGHTS = "model*.safetensors"  # of a model: adapters and the like have other names
_LOADED = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")
_MEMORY = "sha256.json"  # in segzoo's cache folder
_MAX_REMEMBERED = 1000  # files
_SETTLED = (
    2.0  # seconds: a file that changed less long ago may change again within one tick of the file system's clock
)


def write_hashes(directory: str | os.PathLike) -> None:
    """Write the hashes of all weights in a folder, in place of earlier ones; without weights there is no such file.

    Raises:
        OSError: a file cannot be read or written.
    """
    folder = Path(directory)
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.glob(_WEIGHTS))]
    if lines:
        write_whole(folder / HASHES, "".join(lines))
    else:
        (folder / HASHES).unlink(missing_ok=True)


def read_hashes(path: Path) -> dict[str, str]:
    """The hash of each file that a file of hashes names.

    Raises:
        SegZooError: it is not in sha256sum's format.
        OSError: it cannot be read.
    """
    hashes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise SegZooError(
                f"{path}, line {number}: is no line of sha256sum; fetch the file again, or remove it to load without"
            )
        hashes[found[2]] = found[1]
    return hashes


def check_hashes(folder: Path, hashes: Mapping[str, str], source: str) -> None:
    """Compare weights with their hashes.

    Args:
        folder: where the weights are.
        hashes: what `read_hashes` returns.
        source: what the user calls the folder, for the message.

    Raises:
        SegZooError: a file is not what was saved, is missing or has no hash; the message names it.
    """
    for path in sorted(folder.glob(_WEIGHTS)):
        if path.name not in hashes and _LOADED.fullmatch(path.name):
            raise SegZooError(
                f"{source}: {HASHES} does not name {path.name}, and is damaged or belongs to another model; fetch both again, or "
                f"remove {HASHES} to load without"
            )
    for name, expected in hashes.items():
        try:
            same = remembered_sha256(folder / name) == expected
            cause = "its bytes are not those that were saved"
        except OSError as error:
            same, cause = False, f"it cannot be read ({error.strerror})"
        if not same:
            raise SegZooError(
                f"{source}: {name} is damaged or was changed: {cause} (their SHA-256 is in {HASHES}); fetch it again, or, if "
                f"you changed it yourself, remove {HASHES}, or pass --no_verify (verify=False)"
            )


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file; it is read again only if its size or a time has changed since the last call.

    Raises:
        OSError: it cannot be read.
    """
    path = path.resolve()
    state = path.stat()
    stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]  # whoever sets the time back does not set the last
    memory = Path(constants.HF_HOME) / "segzoo" / _MEMORY
    entries = _read_memory(memory)
    known = entries.get(str(path))
    if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str):
        return known[-1]
    digest = sha256_of(path)
    if time.time() - state.st_mtime > _SETTLED:
        entries.pop(str(path), None)
        entries[str(path)] = [*stamp, digest]
        newest = dict(list(entries.items())[-_MAX_REMEMBERED:])
        with contextlib.suppress(OSError):  # a home that cannot be written to costs another reading, nothing else
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_whole(memory, json.dumps(newest, indent=0))
    return digest


def _read_memory(path: Path) -> dict[str, object]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
