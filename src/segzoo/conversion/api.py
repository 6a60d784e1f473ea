"""`segzoo.convert`: a checkpoint by its file, address or name, in a line of Python."""

from __future__ import annotations

import os
from collections.abc import Sequence

from segzoo.conversion.convert import Conversion, convert_checkpoint
from segzoo.conversion.labels import read_class_names
from segzoo.conversion.sources import find_files


def convert(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    decoder: str | os.PathLike | None = None,
    config: str | os.PathLike | None = None,
    name: str | None = None,
    ema: bool = False,
    weights: str | None = None,
    class_names: str | os.PathLike | Sequence[str] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Conversion:
    """Turn an original checkpoint into a model folder, as ``segzoo convert`` does.

    Args:
        checkpoint: file, web address, or name of a released checkpoint, which is downloaded.
        output: folder to make; it may exist if it is empty.
        decoder: the second file of a model that was published in two.
        config, name, ema, weights: as in `segzoo.conversion.convert_checkpoint`.
        class_names: names of the classes, in the order of their ids; or a file of them or a text with commas, as
            ``--classes`` takes; None: those of the file or of its data set.
        cache_dir: where downloads are kept; None: in the Hugging Face cache.

    Raises:
        SegZooError: there is no such file or release, or it cannot be downloaded, converted or written.
    """
    if isinstance(class_names, str | os.PathLike):
        class_names = read_class_names(os.fspath(class_names))
    second = None if decoder is None else os.fspath(decoder)
    files, known_name = find_files(os.fspath(checkpoint), second, name=name, cache_dir=cache_dir)
    return convert_checkpoint(
        *files,
        output=output,
        config=config,
        name=known_name,
        ema=ema,
        weights=weights,
        class_names=None if class_names is None else list(class_names),
    )
