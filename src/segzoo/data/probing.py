"""What is the matter with one pair of picture and mask: the check behind `segzoo data check` and before a first step."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from ..errors import SegZooError
from .decoding import decode_image, decode_mask, decode_pair
from .findings import ERROR, Case
from .label_ids import class_of, count_ids, ids_outside, likely_fix, list_ids

_ORIENTATION_TAG = 0x0112
_LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
_TURNED = {2: "mirrored", 3: "upside down", 4: "mirrored", 5: "on its side", 6: "on its side", 7: "on its side"}


@dataclass(frozen=True)
class LabelRule:
    """What the ids in masks mean.

    Attributes:
        num_labels: Number of classes; None: not known, so no id is out of range.
        ignore_index: Id that never counts.
        reduce_labels: 0 stands for "no class" and 1 for the first class.
    """

    num_labels: int | None = None
    ignore_index: int = 255
    reduce_labels: bool = False

    def class_of(self, label: int) -> int | None:
        """The class of an id as it is stored; None for an ignored one."""
        return class_of(label, self.ignore_index, self.reduce_labels)

    def in_words(self) -> str:
        """The ids that may occur in masks."""
        if self.num_labels is None:
            return f"any (ignored: {self.ignore_index})"
        first = 1 if self.reduce_labels else 0
        zero = "0 and " if self.reduce_labels else ""
        return f"{first}..{first + self.num_labels - 1} (ignored: {zero}{self.ignore_index})"


@dataclass(frozen=True)
class PairFacts:
    """What a look at one pair found.

    Attributes:
        image_name, label_name: The two files.
        cases: What is the matter.
        ids: Pixels of every id of the mask, as stored; None where it cannot be read.
        size: (height, width) of the upright picture; None where it cannot be read.
        digest: Hash of the picture's file, 16 bytes; None where it is missing.
    """

    image_name: str
    label_name: str
    cases: list[Case] = field(default_factory=list)
    ids: dict[int, int] | None = None
    size: tuple[int, int] | None = None
    digest: bytes | None = None

    @property
    def usable(self) -> bool:
        """Whether a training can take the pair as it is."""
        return not any(case.severity == ERROR for case in self.cases)


@dataclass(frozen=True)
class _Header:
    """What a file says about its pixels without decoding them."""

    format: str | None
    mode: str
    size: tuple[int, int]
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        return self.size[::-1] if self.orientation >= 5 else self.size


def probe_pair(
    image: Any,
    label: Any,
    rule: LabelRule,
    *,
    image_name: str,
    label_name: str,
    palette: Mapping[tuple[int, int, int], str] | None = None,
) -> PairFacts:
    """Looks at one pair as a training would read it, and goes on after the first thing that is wrong.

    Args:
        image, label: Paths, bytes, PIL images, or `{"path", "bytes"}` of undecoded `datasets` columns; a mask may also be
            an array of ids.
        rule: What the ids mean.
        image_name, label_name: What to call the two.
        palette: Colour -> class name of the data set, to tell what a mask of colours was painted with.
    """
    facts = PairFacts(image_name, label_name)
    found = facts.cases
    image, label = _in_memory(image), _in_memory(label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about huge pictures and broken EXIF blocks
        image_header, label_header = _header(image), _header(label)
        picture, mask = _decode(image, label, label_header, facts, palette)
    digest = _digest(image)
    if image_header is not None:
        _judge_picture(image_header, facts)
    if label_header is not None and mask is not None:
        _judge_mask_file(label_header, facts)
    if image_header is not None and label_header is not None:
        _judge_rotation(image_header, label_header, facts)
    ids = None
    if mask is not None and not any(case.kind == "lossy_mask" for case in found):
        ids = count_ids(mask)
        _judge_ids(ids, rule, facts)
    size = None if picture is None else picture.shape[:2]
    return PairFacts(image_name, label_name, found, ids, size, digest)


# Reading


def _in_memory(source: Any) -> Any:
    """The same with the bytes of a file, so that it is read once; unchanged where that cannot be done."""
    path = source.get("path") if isinstance(source, Mapping) else source
    if isinstance(source, Mapping) and source.get("bytes") is not None:
        return source
    if isinstance(path, str | os.PathLike) and os.path.isfile(path):
        try:
            with open(path, "rb") as file:
                return {"path": os.fspath(path), "bytes": file.read()}
        except OSError:
            return source
    return source


def _header(source: Any) -> _Header | None:
    try:
        if isinstance(source, PIL.Image.Image):
            image = source
        elif isinstance(source, Mapping) and source.get("bytes") is not None:
            image = PIL.Image.open(io.BytesIO(source["bytes"]))
        elif isinstance(source, bytes):
            image = PIL.Image.open(io.BytesIO(source))
        else:
            return None
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError):
        return None
    try:
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, ValueError, TypeError):
        orientation = 1
    return _Header(image.format, image.mode, image.size, orientation if 1 <= orientation <= 8 else 1)


def _digest(source: Any) -> bytes | None:
    if isinstance(source, Mapping):
        data = source.get("bytes")
    elif isinstance(source, PIL.Image.Image | np.ndarray):
        data = np.ascontiguousarray(source).tobytes()
    else:
        data = source if isinstance(source, bytes) else None
    return None if data is None else hashlib.blake2b(data, digest_size=16).digest()


def _decode(image, label, label_header, facts: PairFacts, palette) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The pair as training decodes it; where that fails, what can be had of it, and the reasons as cases."""
    names = {"image_name": facts.image_name, "label_name": facts.label_name}
    if label is None:
        facts.cases.append(Case("image_without_mask", files=(facts.image_name,)))
    elif label_header is not None and label_header.format in _LOSSY_FORMATS:
        facts.cases.append(Case("lossy_mask", f"{label_header.format}, {label_header.mode}", (facts.label_name,)))
        label = None
    try:
        return decode_pair(image, label, **names)
    except SegZooError:
        picture = _attempt(lambda: decode_image(image, name=facts.image_name), "unreadable_image", facts.image_name, facts)
        if label is None:
            return picture, None
        # A mask that even a viewer cannot show is corrupt; one that only has no ids holds colours.
        is_array = isinstance(label, np.ndarray)
        shown = None
        if not is_array:
            shown = _attempt(lambda: decode_image(label, name=facts.label_name), "unreadable_mask", facts.label_name, facts)
            if shown is None:
                return picture, None
        try:
            mask = decode_mask(label, name=facts.label_name)
        except SegZooError as error:
            if shown is None or label_header is None:
                facts.cases.append(Case("unreadable_mask", _reason(error, facts.label_name), (facts.label_name,)))
            else:
                facts.cases.append(_color_case(shown, label_header, facts.label_name, palette))
            return picture, None
        if picture is not None and picture.shape[:2] != mask.shape:
            facts.cases.append(_size_case(picture.shape, mask.shape, facts))
        return picture, mask


def _attempt(read, kind: str, name: str, facts: PairFacts) -> np.ndarray | None:
    try:
        return read()
    except SegZooError as error:
        facts.cases.append(Case(kind, _reason(error, name), (name,)))
        return None


def _reason(error: SegZooError, name: str) -> str:
    """The cause without the file, which stands beside it, and without the advice, which is the kind's."""
    text = str(error).removeprefix(f"{name}: ")
    return text.partition(". ")[0].rstrip(".")


def _size_case(image_shape, mask_shape, facts: PairFacts) -> Case:
    (height, width), (mask_height, mask_width) = image_shape[:2], mask_shape
    return Case(
        "sizes_differ",
        f"the picture is {width}x{height}, the mask {mask_width}x{mask_height} (width x height)",
        (facts.image_name, facts.label_name),
        details={
            "image_height": height,
            "image_width": width,
            "mask_height": mask_height,
            "mask_width": mask_width,
        },
    )


def _color_case(shown: np.ndarray, header: _Header, name: str, palette) -> Case:
    most = 4096
    listed = PIL.Image.fromarray(shown).getcolors(most)
    details: dict[str, Any] = {"mode": header.mode}
    if listed is None:
        text = f"{header.mode} with more than {most} colours, so a picture or a smoothed mask"
        return Case("color_mask", text, (name,), details=details)
    listed.sort(key=lambda entry: (-entry[0], entry[1]))
    details |= {"num_colors": len(listed), "colors": [[*color, count] for count, color in listed[:32]]}
    words = ", ".join(f"{color} x {count}" for count, color in listed[:3]) + (", ..." if len(listed) > 3 else "")
    text = f"{header.mode} with {len(listed)} colour{'s' * (len(listed) != 1)}: {words}"
    if all(color[0] == color[1] == color[2] for _, color in listed):
        text += "; all of them are grey, so the first channel probably holds the ids"
    elif palette and all(color in palette or color == (0, 0, 0) for _, color in listed):
        text += "; they are the classes' own colours"
    return Case("color_mask", text, (name,), details=details)


# Judging


def _judge_picture(header: _Header, facts: PairFacts) -> None:
    if header.mode != "RGB":
        dropped = ", its transparency is dropped" if header.mode in ("RGBA", "LA", "PA") else ""
        facts.cases.append(
            Case("picture_mode", header.mode + dropped, (facts.image_name,), details={"mode": header.mode})
        )


def _judge_mask_file(header: _Header, facts: PairFacts) -> None:
    if header.mode == "P":
        facts.cases.append(Case("palette_mask", "", (facts.label_name,)))
    elif header.mode.startswith("I"):
        facts.cases.append(Case("wide_mask", header.mode, (facts.label_name,), details={"mode": header.mode}))


def _judge_rotation(image: _Header, label: _Header, facts: PairFacts) -> None:
    """EXIF rotation, told as `decode_pair` handles it."""
    if image.orientation == label.orientation == 1:
        return
    files = (facts.image_name, facts.label_name)
    details = {"image_orientation": image.orientation, "mask_orientation": label.orientation}
    if label.orientation != 1:
        if label.orientation == image.orientation:
            text = f"orientation {image.orientation}, as its mask; both are turned upright"
            facts.cases.append(Case("exif_rotation", text, files, details=details))
        else:
            text = f"the mask has orientation {label.orientation}, the picture {_orientation_words(image.orientation)}"
            facts.cases.append(Case("exif_differs", text, files, details=details))
        return
    told = f"orientation {image.orientation} (stored {_TURNED.get(image.orientation, 'on its side')})"
    if image.orientation < 5 or image.size[0] == image.size[1]:
        text = f"{told}, and the mask's size fits either way"
        facts.cases.append(Case("exif_ambiguous", text, files, details=details))
    elif label.size == image.size:
        text = f"{told}; the mask has no tag and the stored size, so it is turned with the picture"
        facts.cases.append(Case("exif_rotation", text, files, details=details))
    elif label.size == image.upright_size:
        text = f"{told}; the mask has no tag and is upright already"
        facts.cases.append(Case("exif_rotation", text, files, details=details))


def _orientation_words(orientation: int) -> str:
    return "none" if orientation == 1 else f"orientation {orientation}"


def _judge_ids(ids: Mapping[int, int], rule: LabelRule, facts: PairFacts) -> None:
    if ids and all(rule.class_of(label) is None for label in ids):
        text = f"ids {list_ids(ids)}"
        facts.cases.append(Case("only_ignored", text, (facts.label_name,), details={"ids": _json_ids(ids)}))
    if rule.num_labels is None:
        return
    bad = ids_outside(ids, rule.num_labels, rule.ignore_index, rule.reduce_labels)
    if bad:
        fix = likely_fix(bad, ids, rule.num_labels, rule.ignore_index, rule.reduce_labels)
        text = f"{list_ids(bad)}; allowed are {rule.in_words()}"
        facts.cases.append(
            Case("ids_out_of_range", text, (facts.label_name,), details={"ids": _json_ids(bad)}, fix=f"likely fix: {fix}")
        )


def _json_ids(ids: Mapping[int, int], most: int = 256) -> dict[str, int]:
    return {str(label): pixels for label, pixels in list(ids.items())[:most]}


def crop_case(size: tuple[int, int], scaled: tuple[int, int], crop_size: tuple[int, int], name: str) -> Case | None:
    """The case of a picture that is smaller than the crop, or None.

    Args:
        size: (height, width) of the picture.
        scaled: The same after resizing, before random scaling.
        crop_size: (height, width) of the crops.
        name: The picture.
    """
    if scaled[0] >= crop_size[0] and scaled[1] >= crop_size[1]:
        return None
    (height, width), (crop_height, crop_width) = scaled, crop_size
    resized = "" if scaled == size else f", resized from {size[1]}x{size[0]}"
    return Case(
        "smaller_than_crop",
        f"{width}x{height}{resized}, the crop {crop_width}x{crop_height} (width x height)",
        (name,),
        details={"height": height, "width": width, "crop_height": crop_height, "crop_width": crop_width},
    )
