"""Where checkpoints come from: files, addresses, and names of released ones, which are downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from segzoo import zoo
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.reading.archives import CHECKPOINT_SUFFIXES
from segzoo.errors import SegZooError
from segzoo.images.web import is_web_address
from segzoo.progress import print_text


def find_files(
    checkpoint: str,
    decoder: str | None = None,
    *,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[list[str | Path], str | None]:
    """The checkpoint's one or two files, downloaded if necessary, and its zoo name.

    Before a download, everything is checked that can be checked without the file.

    Args:
        checkpoint: file, address, or name of a released checkpoint.
        decoder: second file or address of a model that was published in two.
        name: name of the released checkpoint that a file is.
        cache_dir: where downloads are kept; None: in the Hugging Face cache.

    Raises:
        SegZooError: there is no such file or release, or it cannot be downloaded or converted.
    """
    given = [part for part in (checkpoint, decoder) if part is not None]
    row = None if Path(checkpoint).is_file() else zoo.lookup(checkpoint)
    if row is None and not any(map(is_web_address, given)):
        explain_missing(checkpoint)
        return given, name
    if row is None:
        return [downloaded(part, cache_dir) if is_web_address(part) else part for part in given], name
    if decoder is not None:
        raise ConversionError(f"{decoder}: all files of {row.name} are downloaded; leave the second one out")
    _check_convertible(row)
    if row.url is not None:
        print_text(f"{row.name}: from {row.url}", stream=sys.stderr)
    from segzoo.zoo.download import download_checkpoint

    return list(download_checkpoint(row, folder=cache_dir)), name or row.name


def downloaded(url: str, folder: str | os.PathLike | None) -> Path:
    """The file at an address, which is downloaded into a folder (None: the cache) and kept there."""
    from segzoo.zoo.download import download

    print_text(f"downloading {url}", stream=sys.stderr)
    return download(url, folder=folder)


def _check_convertible(row: zoo.ZooRow) -> None:
    from segzoo.conversion.translate import refusal

    config = zoo.original_config(row.name)
    if config is not None and (reason := refusal(config)) is not None:
        raise ConversionError(f"{row.name}: {reason} (segzoo list --convertible shows what converts)")


def explain_missing(checkpoint: str) -> None:
    """Raise an error that says what a missing file may have meant; return if the error of reading it says enough."""
    if Path(checkpoint).is_file():
        return
    plain = next((checkpoint.removesuffix(s) for s in CHECKPOINT_SUFFIXES if checkpoint.endswith(s)), None)
    if plain is None and os.sep not in checkpoint and not Path(checkpoint).exists():
        try:
            zoo.find(checkpoint)
        except SegZooError as error:
            raise ConversionError(f"{checkpoint}: there is no such file, and {error}") from None
    elif plain is not None and (row := zoo.lookup(Path(plain).name)) is not None:
        raise ConversionError(f"{checkpoint}: there is no such file; 'segzoo convert {row.name}' downloads it")
