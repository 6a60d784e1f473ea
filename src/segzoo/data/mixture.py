"""Several data sets as one: a YAML file lists them, with repeats and parts, and maps their classes to common ones.

    classes: [road, vehicle, person]        # or the name of a known data set, or a JSON file
    sources:
      - data: cityscapes                    # beside this file, or any place that segzoo reads
        map: {car: vehicle, truck: vehicle, rider: person}
        default: ignore                     # what is not named does not count
      - data: my_pictures
        classes: [street, walker]
        map: {street: road, walker: person}
        repeat: 3

A class of the same name as one of ours need not be named.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.data.data_source import DataSource
from segzoo.data.mapped_labels import MappedLabels
from segzoo.errors import SegZooError, one_line
from segzoo.options import Options, nearest, option

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SUFFIXES = (".yaml", ".yml")
REPEAT = "repeat"
"""Column of the number of times that a row comes in an epoch; `repeated` follows it."""

IGNORE = "ignore"
MOST_CLASSES = 255  # 255 marks the pixels that do not count
_SPLITS = ("train", "validation", "test")


def is_mixture(source: str | os.PathLike) -> bool:
    """Whether a data set's name is that of a YAML file, which lists several."""
    return Path(source).suffix.casefold() in SUFFIXES


@dataclass(frozen=True, kw_only=True)
class MixedSource(Options):
    """One of the data sets of a mixture; its options but ``data`` and ``map`` are those of `DataSource` and `find_classes`.

    Raises:
        SegZooError: a value of the wrong type or range, or values that do not fit each other.
    """

    data: str | None = option(None, "folder, file or Hub name; a relative path begins at the mixture's folder")
    repeat: int = option(1, "how often each training picture comes in an epoch", at_least=1, at_most=10_000)
    fraction: float | None = option(None, "share of the training pictures to take, at random", above=0, at_most=1)
    max_samples: int | None = option(None, "number of training pictures to take at most, at random", at_least=1)
    splits: tuple[str, ...] = option(_SPLITS, "parts of the data to take", choices=_SPLITS)
    classes: str | None = option(None, "its classes: a known data set, or a JSON file; or a list of their names")
    names: tuple[str, ...] | None = option(None, "the names of its classes, where classes is a list")
    num_labels: int | None = option(None, "its number of classes, named 0, 1, 2 ... in the map", at_least=1)
    do_reduce_labels: bool | None = option(None, "its masks hold 0 for 'no class' and 1..n")
    ignore_index: int = option(255, "label of its pixels that do not count")
    default: str | None = option(
        None, "ignore: its classes that are neither mapped nor ours do not count", choices=(IGNORE,)
    )
    config_name: str | None = option(None, "configuration of a Hub data set")
    image_column: str | None = option(None, "column of the pictures")
    label_column: str | None = option(None, "column of the masks")
    image_suffix: str = option("", "end of the pictures' names")
    label_suffix: str = option("", "end of the masks' names")
    data_root: str | None = option(None, "folder that the paths in .odgt lists begin at")

    def check(self) -> None:
        """Check that there are data, and that parts and classes are named in one way."""
        super().check()
        if not self.data:
            self.refuse("data is missing; name the data set's folder, file or Hub name")
        if self.fraction is not None and self.max_samples is not None:
            self.refuse("fraction and max_samples exclude each other; leave one out")
        if self.num_labels is not None and not self.classes == self.names is None:
            self.refuse("classes names the classes and so their number; leave out num_labels")


@dataclass(frozen=True)
class Mixture:
    """The content of a mixture's file.

    Args:
        path: the file.
        classes: names of the common classes, in the order of their ids.
        sources: the data sets.
        maps: for each data set, our names (or "ignore") by its names.
        seed: decides which pictures ``fraction`` and ``max_samples`` take.
    """

    path: Path
    classes: tuple[str, ...]
    sources: tuple[MixedSource, ...]
    maps: tuple[Mapping[str, str], ...]
    seed: int = 0

    @property
    def id2label(self) -> dict[int, str]:
        """The common classes by id."""
        return dict(enumerate(self.classes))

    @classmethod
    def read(cls, path: str | os.PathLike) -> Mixture:
        """Read and check a mixture's file; no data set is opened.

        Raises:
            SegZooError: the file cannot be read, or a field is missing, unknown or wrong; the message names it.
        """
        path = Path(path).expanduser()
        values = _read_yaml(path)
        _refuse_unknown(values, ("classes", "sources", "seed"), str(path))
        if not isinstance(values.get("sources"), list) or not values["sources"]:
            raise SegZooError(f"{path}: sources is the list of the data sets, each with data: PLACE and what differs")
        seed = values.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise SegZooError(f"{path}: seed is {seed!r:.60}; it must be a whole number of at least 0")
        names = _class_names(values.get("classes"), path)
        if not names or len(names) > MOST_CLASSES:
            raise SegZooError(f"{path}: classes has {len(names)} names; a mixture has 1 to {MOST_CLASSES} classes")
        if IGNORE in names or len(set(names)) < len(names):
            raise SegZooError(f"{path}: classes holds {IGNORE!r} or a name twice; each class needs a name of its own")
        sources, maps = [], []
        for number, entry in enumerate(values["sources"], start=1):
            where = f"{path}: source {number}"
            if not isinstance(entry, dict):
                raise SegZooError(f"{where} is {entry!r:.60}; it must be a mapping such as {{data: my_folder}}")
            entry = dict(entry)
            if isinstance(entry.get("classes"), list):
                entry["names"] = entry.pop("classes")
            maps.append(_checked_map(entry.pop("map", None) or {}, names, where))
            _refuse_unknown(entry, (*(field.name for field in fields(MixedSource)), "map"), where)
            try:
                sources.append(MixedSource(**entry))
            except SegZooError as error:
                raise SegZooError(f"{where}: {error}") from error
        return cls(path, names, tuple(sources), tuple(maps), seed)

    def place(self, source: MixedSource) -> str:
        """Where a data set is: beside the file, if there is such a path, else as its name says."""
        beside = self.path.parent / Path(source.data).expanduser()
        return str(beside) if beside.exists() or "*" in beside.name else source.data

    def load(self, *, token: str | bool | None = None, cache_dir: str | None = None, **problems: Any) -> DatasetDict:
        """The rows of all data sets together, as `load_source` returns them, with the labels of each mapped.

        Args:
            token, cache_dir: see `DataSource`.
            problems: ``strict`` and ``on_problem`` of `load_source`.

        Raises:
            SegZooError: a data set cannot be loaded, or has a class that is not mapped; the message names them.
        """
        import datasets

        parts: dict[str, list[Dataset]] = {}
        for number, (source, names) in enumerate(zip(self.sources, self.maps, strict=True)):
            where = f"{self.path}: source {number + 1} ({source.data})"
            found = self._rows(source, where, token=token, cache_dir=cache_dir, **problems)
            labels = self._labels(source, names, where, token)
            for split, rows in found.items():
                if split == "train":
                    rows = _part(rows, source, self.seed + number)
                parts.setdefault(split, []).append(_uniform(rows, labels, source.repeat if split == "train" else 1))
        if not parts:
            raise SegZooError(f"{self.path}: none of the sources has one of the parts that are to be taken")
        return datasets.DatasetDict(
            {split: datasets.concatenate_datasets(parts[split]) for split in _SPLITS if split in parts}
        )

    def _rows(
        self, source: MixedSource, where: str, *, token: Any, cache_dir: Any, **problems: Any
    ) -> dict[str, Dataset]:
        from segzoo.data.loading import load_source

        place = self.place(source)
        if is_mixture(place):
            raise SegZooError(f"{where}: is a mixture itself; list its sources here")
        fields = ("config_name", "image_column", "label_column", "image_suffix", "label_suffix", "data_root")
        described = DataSource(
            place, token=token, cache_dir=cache_dir, **{name: getattr(source, name) for name in fields}
        )
        try:
            loaded = load_source(described, **problems)
        except SegZooError as error:
            raise SegZooError(f"{where}: {error}") from error
        return {split: rows for split, rows in loaded.items() if split in source.splits}

    def _labels(self, source: MixedSource, names: Mapping[str, str], where: str, token: Any) -> MappedLabels:
        """How the ids in the masks of a data set become ours."""
        theirs, reduced = self._classes_of(source, where, token)
        unknown = [name for name in names if name not in theirs]
        if unknown:
            raise SegZooError(
                f"{where}: map names {unknown[0]!r}, which is none of its classes"
                f"{nearest(unknown[0], theirs) or '; they are ' + ', '.join(theirs)}"
            )
        ids = {name: index for index, name in enumerate(self.classes)}
        targets = {name: names.get(name, name if name in ids else source.default) for name in theirs}
        missing = [name for name, target in targets.items() if target is None]
        if missing:
            raise SegZooError(
                f"{where}: {len(missing)} of its classes are not mapped: {', '.join(missing)}; name them in map, with one of "
                "ours or ignore, or say default: ignore"
            )
        return MappedLabels(
            encoding=None,
            targets=tuple(ids.get(targets[name], 255) for name in theirs),
            reduced=reduced,
            ignored=source.ignore_index,
        )

    def _classes_of(self, source: MixedSource, where: str, token: Any) -> tuple[list[str], bool]:
        """The names of a data set's classes, and whether its masks hold 0 for "no class"."""
        from segzoo.data.classes import find_classes

        if source.names is not None:
            return list(source.names), bool(source.do_reduce_labels)
        if source.num_labels is not None:
            return [str(index) for index in range(source.num_labels)], bool(source.do_reduce_labels)
        classes = None if source.classes is None else _beside(self.path, source.classes)
        try:
            found = find_classes(
                self.place(source), classes=classes, reduce_labels=source.do_reduce_labels, token=token
            )
        except SegZooError as error:
            raise SegZooError(
                f"{where}: {error}; here its options are called classes, num_labels, do_reduce_labels"
            ) from error
        return found.names, found.reduce_labels


def repeated(rows: Any) -> Any:
    """Rows of a mixture as often as its file says, one after the other; other rows are returned unchanged."""
    if REPEAT not in (getattr(rows, "column_names", None) or ()):
        return rows
    times = rows[REPEAT]
    rows = rows.remove_columns(REPEAT)
    if all(count == 1 for count in times):
        return rows
    return rows.select([index for index, count in enumerate(times) for _ in range(count)])


def mixture_facts(source: str | os.PathLike) -> dict[str, str]:
    """What a training keeps of a mixture to know that it was changed; empty for other data sets."""
    if not is_mixture(source):
        return {}
    content = Path(source).expanduser().read_bytes()
    return {"fingerprint of the mixture": hashlib.sha256(content).hexdigest()[:16]}


def _part(rows: Dataset, source: MixedSource, seed: int) -> Dataset:
    count = len(rows)
    if source.fraction is not None:
        count = max(1, int(count * source.fraction))
    if source.max_samples is not None:
        count = min(count, source.max_samples)
    return rows if count == len(rows) else rows.shuffle(seed=seed).select(range(count)).flatten_indices()


def _uniform(rows: Dataset, labels: MappedLabels, repeat: int) -> Dataset:
    """Rows with the same columns whatever their data set, and how their masks are read."""
    import datasets

    features, count = rows.features, len(rows)
    encodings = rows["label_encoding"] if "label_encoding" in features else [None] * count
    texts = {encoding: labels.of(encoding).text for encoding in set(encodings)}
    columns: dict[str, Sequence[Any]] = {
        name: rows[name] if name in features else [None] * count for name in ("image_path", "label_path")
    }
    columns |= {"label_encoding": [texts[encoding] for encoding in encodings], REPEAT: [repeat] * count}
    kinds = {name: datasets.Value("int32" if name == REPEAT else "string") for name in columns}
    pictures = rows.select_columns(["image", "label"])
    described = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    return datasets.concatenate_datasets([pictures, described], axis=1)


def _class_names(classes: Any, path: Path) -> tuple[str, ...]:
    from segzoo.data.classes import find_classes

    if isinstance(classes, list):
        odd = [name for name in classes if not isinstance(name, str)]
        if odd:
            raise SegZooError(f"{path}: classes holds {odd[0]!r}, which is no text; put it into quotes")
        return tuple(classes)
    if not isinstance(classes, str):
        raise SegZooError(
            f"{path}: classes is missing: the common classes, a list of names, a known data set or a JSON file"
        )
    return tuple(find_classes(str(path.parent), classes=_beside(path, classes)).names)


def _beside(path: Path, name: str) -> str:
    """A file beside the mixture's, if there is one of this name, else the name."""
    return str(path.parent / name) if (path.parent / name).is_file() else name


def _checked_map(names: Any, classes: Sequence[str], where: str) -> dict[str, str]:
    if not isinstance(names, dict):
        raise SegZooError(f"{where}: map is {names!r:.60}; it must be a mapping such as {{street: road, sky: ignore}}")
    for theirs, ours in names.items():
        if isinstance(theirs, bool) or not isinstance(ours, str):
            raise SegZooError(f"{where}: map holds {theirs!r}: {ours!r}, which is no text; put names into quotes")
        if ours != IGNORE and ours not in classes:
            raise SegZooError(
                f"{where}: map sends {theirs} to {ours!r}, which is none of our classes"
                f"{nearest(ours, (*classes, IGNORE)) or '; they are ' + ', '.join(classes)}"
            )
    return {str(theirs): ours for theirs, ours in names.items()}


def _refuse_unknown(values: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise SegZooError(
                f"{where}: there is no field {key!r}{nearest(str(key), known) or '; there are ' + ', '.join(known)}"
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SegZooError(f"{path}: there is no such file; a .yaml file lists the data sets of a mixture") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SegZooError(
            f"{path}: the mixture cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})"
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        raise SegZooError(f"{path}: is no YAML: {one_line(error)[:200]}") from error
    if not isinstance(loaded, dict):
        raise SegZooError(f"{path}: a mixture is a mapping with classes and sources")
    return loaded
