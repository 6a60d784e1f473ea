"""The record of how the results in a folder were made, so that a run goes on only where it was ended by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedConfig

from segzoo.configuration_segzoo import input_channels
from segzoo.errors import SegZooError
from segzoo.files import json_text, sha256_of, write_whole
from segzoo.hub_names import hub_or_cache
from segzoo.inference.loading import errors_in_a_line, read_config, read_processor
from segzoo.model_folder import CONFIG, PREPROCESSOR
from segzoo.prediction.inputs import Input
from segzoo.prediction.results import Results
from segzoo.text import without_secrets
from segzoo.weight_hashes import HASHES

RECORD = ".segzoo-predict"
"""Name of the record, a JSON, in the folder of the results: hidden, and no ``*.json``, since those belong to pictures."""


@dataclass(frozen=True)
class Record:
    """What decides about results.

    Args:
        model: folder or name on the Hub, as the user calls it.
        content: tells one content of such a folder from another; see `ModelSource.content`.
        protocol: sizes, windows, views and flips in words.
        dtype: of the computation.
        ignore_below: least probability of a class; None: any.
        results: the kind of results, in words.
    """

    model: str
    content: str
    protocol: str
    dtype: str
    ignore_below: float | None
    results: str

    @property
    def key(self) -> str:
        """What decides about results, in a line; the same model at another place has the same."""
        return str(replace(self, model=""))

    def difference(self, other: Record) -> str | None:
        """What another record says otherwise, as ``this, not that``; None if results are the same with both."""
        if self.content != other.content:
            if self.model == other.model:
                return f"--model {self.model} when its weights or settings were others"
            return f"--model {self.model}, not {other.model}"
        for name, words in _WORDS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{words} {_shown(mine)}, not {_shown(theirs)}"
        return None


_WORDS = {"ignore_below": "--ignore_below", "dtype": "--dtype", "protocol": "the protocol", "results": "as results"}


@dataclass(frozen=True)
class ModelSource:
    """A model, and how it is found.

    Args:
        model: folder or name on the Hub.
        revision, token, cache_dir, trust_remote_code, verify: as in `segzoo.load`.
    """

    model: str
    revision: str | None = None
    token: str | None = None
    cache_dir: str | None = None
    trust_remote_code: bool = False
    verify: bool = True

    def settings(self) -> tuple[PreTrainedConfig, BaseImageProcessor]:
        """The model's config and its image processor, without its weights.

        Raises:
            SegZooError: they cannot be read.
        """
        options: dict[str, Any] = {name: getattr(self, name) for name in ("revision", "token", "cache_dir")}
        options = {name: value for name, value in options.items() if value is not None}
        options["trust_remote_code"] = self.trust_remote_code
        with errors_in_a_line(self.model), hub_or_cache(self.model, revision=self.revision, token=self.token):
            config = read_config(self.model, options)
            return config, read_processor(self.model, options, input_channels(config))

    def content(self, config: PreTrainedConfig) -> str:
        """The commit of a model on the Hub; of a folder a digest of its settings and its weights.

        Weights are told apart by their saved hashes. Where there are none, or they are not to be compared, by the sizes
        and times of the files.

        Args:
            config: what `settings` returned.
        """
        folder = Path(self.model)
        if not folder.is_dir():
            return f"commit {getattr(config, '_commit_hash', None)}"
        read = [folder / CONFIG, folder / PREPROCESSOR]
        weights = [folder / HASHES] if self.verify else []
        parts = [f"{path.name} {sha256_of(path)}" for path in [*read, *weights] if path.is_file()]
        if len(parts) < len(read) + 1 or not self.verify:
            for path in sorted(folder.glob("*.safetensors")):
                parts.append(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}")
        return f"sha256 {hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}"


def read_records(output: Path) -> list[Record | None]:
    """How the results in a folder were made, one entry for each way; None stands for results of an unknown way.

    It is empty where no record is.
    """
    try:
        entries = json.loads((output / RECORD).read_text(encoding="utf-8"))["made_with"]
        return [None if entry is None else Record(**_known(entry)) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return [None]


def write_records(output: Path, records: Iterable[Record | None]) -> None:
    """Write how the results in a folder were, or are going to be, made."""
    entries = [None if record is None else asdict(record) for record in records]
    write_whole(output / RECORD, json_text({"made_with": entries}, indent=1))


def holds_nothing_else(output: Path, pictures: Iterable[Input], results: Results) -> bool:
    """Whether a folder holds only results of these pictures, hidden files left aside."""
    pictures = list(pictures)
    own = {*results.common, *(name for picture in pictures for name in results.names(picture))}
    folders = {name for picture in pictures for name in results.folders(picture)}
    files = (path.relative_to(output) for path in output.rglob("*") if path.is_file())
    files = (file for file in files if file.parent.as_posix() not in folders)
    return all(file.as_posix() in own or any(part.startswith(".") for part in file.parts) for file in files)


def check_same(output: Path, records: Sequence[Record | None], current: Record) -> None:
    """Refuse to go on in a folder that holds results of another kind.

    Args:
        output: the folder.
        records: how its results were made.
        current: how they would be made now.

    Raises:
        SegZooError: they differ; the message says in what.
    """
    for record in records:
        difference = None if record is None else record.difference(current)
        if difference is not None:
            raise SegZooError(
                f"{output}: it holds results that were made with {difference}; --skip_existing goes on with the same, so "
                "choose another folder, or replace all with --overwrite"
            )


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    return {field.name: entry[field.name] for field in fields(Record)}


def _shown(value: object) -> str:
    return "none" if value is None else without_secrets(str(value))
