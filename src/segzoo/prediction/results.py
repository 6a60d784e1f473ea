"""Kinds of results that are written for each picture: pictures for people, data sets, files for test servers."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from segzoo.data.classes import plain_name
from segzoo.data.facts import DATASETS
from segzoo.data.label_encodings import CITYSCAPES_LABEL_IDS
from segzoo.errors import SegZooError
from segzoo.files import json_text, write_whole
from segzoo.images.drawing import label_image
from segzoo.images.reading import Header, in_colour
from segzoo.images.writing import write_jpeg, write_png
from segzoo.prediction.inputs import SUFFIXES, Input
from segzoo.prediction.labeller import IGNORED, Labeller, Prediction
from segzoo.text import without_secrets

_CITYSCAPES_FRAME = re.compile(r"[^_]+_\d{6}_\d{6}(?!\d)")  # city, sequence, frame


class Results(ABC):
    """What is written for a picture; every file is written whole or not at all."""

    @abstractmethod
    def names(self, picture: Input) -> list[str]:
        """The files of a picture's results, with slashes, below the output folder; the last one is written last."""

    @abstractmethod
    def write(self, output: Path, picture: Input, header: Header, found: Prediction) -> None:
        """Write the results of one picture; their folders exist."""

    def check(self, labeller: Labeller) -> None:  # noqa: B027
        """Refuse a model whose classes cannot be written so, with a `SegZooError`."""

    def check_pictures(self, pictures: Sequence[Input]) -> None:  # noqa: B027
        """Refuse pictures whose results cannot be used together, with a `SegZooError`."""

    def begin(self, output: Path, labeller: Labeller) -> None:  # noqa: B027
        """Write what belongs to all pictures."""

    @property
    def common(self) -> tuple[str, ...]:
        """The files that belong to all pictures."""
        return ()

    def folders(self, picture: Input) -> list[str]:
        """Folders that results of a picture are in whose names and number are not known before."""
        return []

    def are_there(self, output: Path, picture: Input) -> bool:
        """Whether all results of a picture have been written."""
        return all((output / name).is_file() for name in self.names(picture))

    @abstractmethod
    def __str__(self) -> str:
        """The kind of results in words, with the options that decide about them."""


@dataclass(frozen=True)
class Views(Results):
    """A label PNG, an overlay with a legend as JPEG, and a JSON with the areas of the classes.

    Args:
        alpha: share of the colours in the overlay, 0 to 1.
        facts: further entries of the JSON: the model and what else decides about the labels.
        frame_labels: of a video, also a label PNG of every frame.
    """

    alpha: float = 0.55
    facts: Mapping[str, Any] = field(default_factory=dict)
    frame_labels: bool = False

    def names(self, picture: Input) -> list[str]:
        if picture.is_video:
            return [f"{picture.stem}_overlay.mp4", f"{picture.stem}.json"]
        return [picture.stem + ending for ending in (".png", "_overlay.jpg", ".json")]

    def folders(self, picture: Input) -> list[str]:
        return [f"{picture.stem}_frames"] if picture.is_video and self.frame_labels else []

    def __str__(self) -> str:
        options = f"--alpha {self.alpha:g}" + (" --frame_labels" if self.frame_labels else "")
        return f"label maps and overlays ({options})"

    def write(self, output: Path, picture: Input, header: Header, found: Prediction) -> None:
        labels, overlay, facts = (output / name for name in self.names(picture))
        height, width = found.label_map.shape
        write_png(labels, label_image(found.label_map, found.labeller.palette))
        write_jpeg(overlay, found.drawn(self.alpha))
        entries = {"image": without_secrets(picture.name), **self.facts, "protocol": found.labeller.protocol}
        entries |= {"width": width, "height": height, "classes": found.areas}
        write_whole(facts, json_text(entries, indent=1))


@dataclass(frozen=True)
class DatasetFolders(Results):
    """A data set: ``images/``, ``annotations/`` with class ids (255: no class), and ``id2label.json``."""

    def names(self, picture: Input) -> list[str]:
        ending = Path(picture.path).suffix.lower() if picture.path is not None else ""
        ending = ending if ending in SUFFIXES else ".png"
        return [f"images/{picture.stem}{ending}", f"annotations/{picture.stem}.png"]

    def check(self, labeller: Labeller) -> None:
        if len(labeller.names) > IGNORED:
            raise SegZooError(
                f"--as_dataset: the id {IGNORED} means no class in data sets, and the model has {len(labeller.names)} classes; "
                "give a model of at most 255"
            )

    @property
    def common(self) -> tuple[str, ...]:
        return ("id2label.json",)

    def __str__(self) -> str:
        return "a data set (--as_dataset)"

    def begin(self, output: Path, labeller: Labeller) -> None:
        names = {str(index): name for index, name in enumerate(labeller.names)}
        (name,) = self.common
        write_whole(output / name, json_text(names, indent=1))

    def write(self, output: Path, picture: Input, header: Header, found: Prediction) -> None:
        image, labels = (output / name for name in self.names(picture))
        same_kind = image.suffix == picture.path.suffix.lower() and header.orientation == 1
        if same_kind:
            write_whole(image, lambda file: _copy(picture.path, file))
        else:
            # A mask beside a picture that is shown turned would have to be turned too.
            ending = Image.registered_extensions().get(image.suffix, "PNG")
            shown = Image.fromarray(in_colour(found.image))
            if ending == "JPEG":
                write_jpeg(image, shown, quality=95)
            else:
                write_whole(image, lambda file: shown.save(file, format=ending))
        write_png(labels, label_image(found.label_map, found.labeller.palette))


@dataclass(frozen=True)
class Submission(Results):
    """Masks as a benchmark's server takes them, named like their pictures.

    Args:
        dataset: ``"ade20k"``: ids 1 to 150; ``"cityscapes"``: the data set's own ids (labelIds).
    """

    dataset: str

    def __str__(self) -> str:
        return f"masks for a server (--submission {self.dataset})"

    def names(self, picture: Input) -> list[str]:
        return [f"{picture.stem}.png"]

    def check(self, labeller: Labeller) -> None:
        facts = DATASETS[self.dataset]
        expected = [plain_name(facts.id2label[index]) for index in range(facts.num_labels)]
        if [plain_name(name) for name in labeller.names] != expected:
            raise SegZooError(
                f"--submission {self.dataset}: the model's {len(labeller.names)} classes are not the {facts.num_labels} of "
                f"{facts.title} in their order; give a model that was trained on it"
            )

    def check_pictures(self, pictures: Sequence[Input]) -> None:
        first: dict[str, Input] = {}
        for picture in pictures:
            # Servers look into all folders of an archive; that of Cityscapes by the beginning of the name.
            name = picture.stem.rpartition("/")[2]
            frame = _CITYSCAPES_FRAME.match(name) if self.dataset == "cityscapes" else None
            if self.dataset == "cityscapes" and frame is None:
                raise SegZooError(
                    f"{picture.name}: the server finds masks by city, sequence and frame at the beginning of their names, "
                    "such as berlin_000000_000019_leftImg8bit.png; give the test pictures under their own names"
                )
            other = first.setdefault(name if frame is None else frame[0], picture)
            if other is not picture:
                raise SegZooError(
                    f"{other.name} and {picture.name}: the server takes one mask for "
                    f"{name if frame is None else frame[0]}; leave one out"
                )

    def write(self, output: Path, picture: Input, header: Header, found: Prediction) -> None:
        (name,) = self.names(picture)
        write_png(output / name, Image.fromarray(self.stored_ids()[found.label_map]))

    def stored_ids(self) -> np.ndarray:
        """The id in the file for each id of the model, uint8 (256,)."""
        table = np.zeros(256, dtype=np.uint8)
        if self.dataset == "cityscapes":
            for stored, label in CITYSCAPES_LABEL_IDS.ids.items():
                table[label] = stored
        else:
            table[:IGNORED] = np.arange(1, IGNORED + 1)
        return table


def _copy(source: Path, file: BinaryIO) -> Any:
    with source.open("rb") as content:
        shutil.copyfileobj(content, file)
