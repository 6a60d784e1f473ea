"""Fingerprints: short texts that change when a model or a table of pictures changes."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from segzoo.data.label_encodings import PALETTE, label_encoding
from segzoo.data.mapped_labels import split_encoding
from segzoo.images.archives import file_of

_NOTED = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
_FILE_COLUMNS = ("image_path", "label_path")


def model_fingerprint(model: torch.nn.Module) -> str:
    """A fingerprint of every bit of the weights and buffers, and of the config without where the model was loaded
    from.

    16 hexadecimal digits. It reads all weights once, at about a second per gigabyte.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(_settings(model.config.to_dict()), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {checksum}\n".encode())
    return digest.hexdigest()[:16]


def _settings(config: Any) -> Any:
    """A config without the entries that transformers adds when it saves and loads."""
    if isinstance(config, Mapping):
        return {str(key): _settings(value) for key, value in config.items() if key not in _NOTED}
    return [_settings(value) for value in config] if isinstance(config, list | tuple) else config


def rows_fingerprint(rows: Any) -> str:
    """A fingerprint of a table of `segzoo.data.load_segmentation_dataset`: 16 hexadecimal digits.

    It covers the paths, sizes and modification times of the files, how a mixture maps its labels, and what colours in
    masks stand for; for a table without paths it is that of `datasets`.

    Args:
        rows: a `datasets.Dataset`.
    """
    digest = hashlib.sha256(f"{len(rows)} {', '.join(rows.column_names)}\n".encode())
    columns = [column for column in _FILE_COLUMNS if column in rows.column_names]
    if "label_encoding" in rows.column_names:
        texts = sorted(set(filter(None, rows["label_encoding"])))
        digest.update("".join(text for text in texts if split_encoding(text)[1] is not None).encode())
        for name in sorted({name for name, _ in map(split_encoding, texts) if name and name.startswith(PALETTE)}):
            digest.update(repr(sorted(label_encoding(name).colors.items())).encode())
    if not columns or None in rows[columns[0]]:
        digest.update(rows._fingerprint.encode())  # of `datasets`: from the files, or the content where there are none
    for column in columns:
        for path in rows[column]:
            digest.update(f"{path} {_file_state(file_of(str(path)))}\n".encode())
    return digest.hexdigest()[:16]


def _file_state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "-"
    return f"{status.st_size} {status.st_mtime_ns}"
