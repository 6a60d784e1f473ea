"""What a model folder holds: the names of its files, one model's weights at a time, and nothing but regular files."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segzoo.errors import SegZooError
from segzoo.weight_hashes import HASHES, write_hashes

CONFIG, PREPROCESSOR, WEIGHTS, CARD = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
"""Names of the files of a model whose weights are not split."""

WEIGHT_PATTERNS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", HASHES)
"""Shell patterns of the files that belong to the weights: whole, split with the index of their parts, their hashes."""

_OF_WEIGHTS = re.compile(r"model\.safetensors(\.index\.json|\.sha256)?|model-\d{5}-of-\d{5}\.safetensors")
_READ = (".json", ".safetensors", ".sha256", ".bin", ".txt", ".model", ".py", ".jinja")  # by transformers or here


def complete_weights(directory: str | os.PathLike) -> None:
    """Finish what transformers' ``save_pretrained`` has written: one model in the folder, and the hashes of its weights.

    Raises:
        OSError: a file cannot be read, removed or written.
    """
    keep_one_model(Path(directory))
    write_hashes(directory)


def keep_one_model(folder: Path) -> None:
    """Remove the weights of an earlier model of another form, which transformers leaves: whole beside split ones.

    Readers take the whole file where there are both, and would load the earlier model without a word. transformers
    removes earlier parts itself; an index whose parts are gone is therefore the earlier one.

    Raises:
        OSError: a file cannot be removed.
    """
    for index in folder.glob("model.safetensors.index*.json"):  # one for each variant, such as fp16
        variant = index.name.removeprefix("model.safetensors.index").removesuffix(".json")
        whole = folder / f"model{variant}.safetensors"
        if whole.is_file():
            split = all((folder / name).is_file() for name in _parts(index))
            (whole if split else index).unlink()


def of_other_weights(names: Iterable[str], folder: Path) -> list[str]:
    """Those of the names that belong to weights of another model than the one in a folder, if that holds any.

    Args:
        names: names of files, such as those of a repository.
        folder: the model that the files are to belong to.
    """
    own = {path.name for path in folder.iterdir()}
    if not any(_OF_WEIGHTS.fullmatch(name) for name in own):
        return []
    return [name for name in names if _OF_WEIGHTS.fullmatch(name) and name not in own]


def check_files(folder: Path, source: str) -> None:
    """Refuse a model folder with something else in place of a file: a folder, a device, a pipe that never ends.

    Args:
        folder: the folder; nothing is checked if there is none.
        source: what the user calls it, for the message.

    Raises:
        SegZooError: there is such a thing, a file that may not be read, or a link to nothing; or the folder holds two
            sets of weights. The message names it.
    """
    if not folder.is_dir():
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise SegZooError(f"{source}: the folder cannot be read ({error.strerror}); allow it, or copy it") from error
    for name in names:
        if not name.endswith(_READ):
            continue
        path = folder / name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise SegZooError(
                f"{source}: {name} is a link that leads to no file ({error.strerror}); fetch the folder again"
            ) from error
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise SegZooError(f"{source}: {name} is {kind}, and must be a file; fetch the folder again")
        if not os.access(path, os.R_OK):
            raise SegZooError(f"{source}: {name} may not be read by this user; allow it (chmod), or copy the folder")
    index = folder / "model.safetensors.index.json"
    if WEIGHTS in names and index.name in names and all((folder / part).is_file() for part in _parts(index)):
        raise SegZooError(
            f"{source}: holds two sets of weights, {WEIGHTS} and those of {index.name}, of which one is left from an "
            "earlier save; remove the older one"
        )


def _parts(index: Path) -> set[str]:
    """The files that an index of weights names; the name of no file where it is damaged."""
    try:
        values: Any = json.loads(index.read_text(encoding="utf-8"))
        parts = set(values["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        parts = set()
    return {part if isinstance(part, str) else "" for part in parts} or {""}
