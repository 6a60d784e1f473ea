"""The check of one pair of picture and mask, for `segzoo data check` and before the first step of a training."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from segzoo.data.checks.findings import ERROR, Case
from segzoo.data.checks.label_ids import LabelRule, count_ids, list_ids
from segzoo.data.decoding import decode_pair
from segzoo.data.mapped_labels import split_encoding
from segzoo.errors import SegZooError
from segzoo.images.masks import MaskOfColoursError
from segzoo.images.reading import CorruptImageError, Header, decode_image, read_bytes, read_header
from segzoo.images.values import EIGHT_BITS, SIXTEEN_BITS, ValueRule, value_rule

_LARGE = 2**25  # pixels; decoded as RGB they take 100 MB
_DARK = 64  # grey levels; pictures of 14 bits, whose values are not multiplied, have no more
_TURNED = {2: "mirrored", 3: "upside down", 4: "mirrored", 5: "on its side", 6: "on its side", 7: "on its side"}


@dataclass
class PairFacts:
    """The findings about one pair.

    Attributes:
        image_name, label_name: names of the two files.
        cases: the problems.
        ids: number of pixels by id, as stored in the mask; None if it cannot be read.
        size: (height, width) of the upright picture in pixels; None if it cannot be read.
        digest: hash of the picture's file, 16 bytes; None if the file is missing.
        rule: how the picture's values become grey levels; None if it cannot be read.
        brightest: the largest grey level, 0 to 255, of a picture of 16 bits; None for others.
    """

    image_name: str
    label_name: str
    cases: list[Case] = field(default_factory=list)
    ids: dict[int, int] | None = None
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    rule: ValueRule | None = None
    brightest: int | None = None

    @property
    def usable(self) -> bool:
        """Whether a training can take the pair as it is."""
        return not any(case.severity == ERROR for case in self.cases)


def probe_pair(
    image: Any,
    label: Any,
    rule: LabelRule,
    *,
    image_name: str,
    label_name: str,
    encoding: str | None = None,
    palette: Mapping[tuple[int, int, int], str] | None = None,
    num_channels: int | None = None,
) -> PairFacts:
    """Check one pair as a training would read it; the check goes on after the first problem.

    Args:
        image, label: paths, bytes, PIL images, or `{"path", "bytes"}` of undecoded `datasets` columns; a mask may also
            be an array of ids (height, width), and is None if it is missing.
        rule: what the ids in masks mean.
        image_name, label_name: names of the two for the cases.
        encoding: how the mask is written; see `decode_pair`.
        palette: class name by colour, which helps to explain a mask of colours.
        num_channels: number of channels that the model takes. Without a model, None: pictures of 1, 3 or 4 channels
            are read as RGB, and others as for a model of their number of channels.
    """
    facts = PairFacts(image_name, label_name)
    image = image if isinstance(image, np.ndarray) else _in_memory(image)
    label = _in_memory(label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of huge pictures and broken EXIF blocks
        image_header, label_header = _header(image), _header(label)
        read_as = num_channels or _channels(image_header)
        picture, mask = _decode(image, label, image_header, label_header, facts, encoding, palette, read_as)
    facts.digest = _digest(image)
    if image_header is not None:
        facts.rule = image_header.rule
        if picture is not None or facts.size is not None:
            _judge_picture(image_header, num_channels or 3, facts)
    elif isinstance(image, np.ndarray) and picture is not None:
        facts.rule = value_rule(image.dtype)
    if label_header is not None and mask is not None and encoding is None:
        _judge_mask_file(label_header, facts)
    if image_header is not None and label_header is not None:
        _judge_rotation(image_header, label_header, facts)
    if picture is not None:
        facts.size = picture.shape[:2]
        if facts.rule is SIXTEEN_BITS and picture.size:
            facts.brightest = int(picture.max())
    if mask is not None:
        facts.ids = count_ids(mask)
        _judge_ids(facts.ids, rule, facts)
    return facts


def usual_channels(image: Any) -> int:
    """The number of channels that a picture is read with where no model decides: 3 for those of 1, 3 or 4, else its own.

    Args:
        image: see `probe_pair`; of one that cannot be read, 3.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _channels(_header(image))


# Reading


def _channels(header: Header | None) -> int:
    bands = None if header is None else header.channels
    return 3 if bands in (None, 1, 3, 4) else bands


def _in_memory(source: Any) -> Any:
    """The path and bytes of a file, so that it is read only once; other sources are returned unchanged."""
    if isinstance(source, np.ndarray) and source.ndim == 3:
        return PIL.Image.fromarray(source)
    if not isinstance(source, Mapping | str | os.PathLike):
        return source
    path = source.get("path") if isinstance(source, Mapping) else os.fspath(source)
    try:
        return {"path": path, "bytes": read_bytes(source)}
    except CorruptImageError:
        return source


def _header(source: Any) -> Header | None:
    """The header of a file; None for arrays, and for files that cannot be read."""
    if source is None or isinstance(source, np.ndarray):
        return None
    try:
        return read_header(source)
    except SegZooError:
        return None


def _digest(source: Any) -> bytes | None:
    if isinstance(source, Mapping):
        data = source.get("bytes")
    elif isinstance(source, PIL.Image.Image | np.ndarray):
        data = np.ascontiguousarray(source).tobytes()
    else:
        data = source if isinstance(source, bytes) else None
    return None if data is None else hashlib.blake2b(data, digest_size=16).digest()


def _decode(
    image: Any,
    label: Any,
    image_header: Header | None,
    label_header: Header | None,
    facts: PairFacts,
    encoding: str | None,
    palette: Mapping[tuple[int, int, int], str] | None,
    num_channels: int,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The pair as a training decodes it; if that fails, the part that can be read, and the reasons as cases.

    A picture of another size than its mask is not decoded: both headers tell it.
    """
    image_name, label_name = facts.image_name, facts.label_name
    if label is None:
        facts.cases.append(Case("image_without_mask", files=(image_name,)))
    elif label_header is not None and label_header.lossy:
        facts.cases.append(Case("lossy_mask", f"{label_header.format}, {label_header.mode}", (label_name,)))
        label = None
    if label is not None and image_header is not None and label_header is not None:
        image_size, mask_size = _upright_sizes(image_header, label_header)
        if image_size != mask_size:
            facts.size = image_size
            facts.cases.append(_size_case(image_size, mask_size, facts))
            return None, _decode_mask(label, facts, encoding, palette)
    names = {"image_name": image_name, "label_name": label_name}
    try:
        return decode_pair(image, label, **names, encoding=encoding, num_channels=num_channels)
    except SegZooError:
        picture = None
    try:
        picture = decode_image(image, name=image_name, num_channels=num_channels)
    except CorruptImageError as error:
        fix = _advice(error)
        facts.cases.append(Case("unreadable_image", _reason(error, image_name), (image_name,), fix=fix))
    except SegZooError as error:
        facts.cases.append(_unusable("unusable_image", error, image_name))
    mask = None if label is None else _decode_mask(label, facts, encoding, palette)
    if picture is not None and mask is not None and picture.shape[:2] != mask.shape:
        facts.cases.append(_size_case(picture.shape, mask.shape, facts))
    return picture, mask


def _upright_sizes(image: Header, label: Header) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of picture and mask as `decode_pair` turns them upright."""
    turned = label.orientation == 1 and label.size != image.upright_size and label.size == image.size
    return image.upright_size[::-1], (image.upright_size if turned else label.upright_size)[::-1]


def _decode_mask(
    label: Any,
    facts: PairFacts,
    encoding: str | None,
    palette: Mapping[tuple[int, int, int], str] | None,
) -> np.ndarray | None:
    """The mask; None if it cannot be read, with the reason as a case."""
    name = facts.label_name
    try:
        return decode_pair(None, label, label_name=name, encoding=encoding)[1]
    except CorruptImageError as error:
        facts.cases.append(Case("unreadable_mask", _reason(error, name), (name,), fix=_advice(error)))
    except SegZooError as error:
        if split_encoding(encoding)[0] is not None or isinstance(error, MaskOfColoursError):
            facts.cases.append(_color_case(label, _reason(error, name), encoding, name, palette))
        else:
            facts.cases.append(_unusable("unusable_mask", error, name))
    return None


def _unusable(kind: str, error: SegZooError, name: str) -> Case:
    """A case with the cause and the fix of the error's message."""
    text = str(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
    cause, _, fix = text.rstrip(".").partition("; ")
    return Case(kind, cause, (name,), fix=fix)


def _reason(error: SegZooError, name: str) -> str:
    """The cause without the file, which the case names, and without the advice, which its kind gives."""
    text = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error).removeprefix(f"{name}: "))
    return text.partition(". ")[0].rstrip(".")


def _advice(error: SegZooError) -> str:
    """What the error's message advises where it is more than the kind of finding does; else nothing."""
    advice = str(error).rpartition("). ")[2].rstrip(".")
    return advice if "--tile" in advice else ""


def _size_case(image_shape: tuple[int, ...], mask_shape: tuple[int, int], facts: PairFacts) -> Case:
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


def _color_case(
    label: Any, reason: str, encoding: str | None, name: str, palette: Mapping[tuple[int, int, int], str] | None
) -> Case:
    """The case of a mask that can be read but holds no ids."""
    if encoding is not None:
        return Case("color_mask", reason, (name,), details={"encoding": encoding})
    most = 4096
    header = _header(label)
    mode = "an array" if header is None else header.mode
    details: dict[str, Any] = {"mode": mode}
    if header is not None and header.channels is not None:  # many bands, which have no colours to list
        return Case("color_mask", mode, (name,), details=details)
    listed = PIL.Image.fromarray(decode_image(label, name=name)).getcolors(most)
    if listed is None:
        text = f"{mode} with more than {most} colours, so a picture or a smoothed mask"
        return Case("color_mask", text, (name,), details=details)
    listed.sort(key=lambda entry: (-entry[0], entry[1]))
    details |= {"num_colors": len(listed), "colors": [[*color, count] for count, color in listed[:32]]}
    words = ", ".join(f"{color} x {count}" for count, color in listed[:3]) + (", ..." if len(listed) > 3 else "")
    text = f"{mode} with {len(listed)} colour{'s' * (len(listed) != 1)}: {words}"
    if palette and all(color in palette or color == (0, 0, 0) for _, color in listed):
        text += "; they are the classes' own colours"
    return Case("color_mask", text, (name,), details=details)


# Judging


def _judge_picture(header: Header, num_channels: int, facts: PairFacts) -> None:
    width, height = header.size
    if header.format == "TIFF" and width * height >= _LARGE:
        details = {"width": width, "height": height}
        facts.cases.append(Case("large_picture", f"{width}x{height}", (facts.image_name,), details=details))
    as_it_is = {1: "L", 3: "RGB", 4: "RGBA"}.get(num_channels)
    fits = header.channels == num_channels if header.channels is not None else header.mode == as_it_is
    if not fits or header.rule is not EIGHT_BITS:
        transparent = header.mode in ("RGBA", "LA", "PA")
        dropped = ", its transparency is dropped" if transparent and num_channels in (1, 3) else ""
        only = "" if header.channels in (None, 1, 3, 4) else f", for models with num_channels={header.channels} alone"
        text = f"{header.mode}{dropped}{only}; values: {header.rule.words}"
        details = {"mode": header.mode, "rule": header.rule.name}
        channels = f"{num_channels} channel{'s' * (num_channels != 1)}"
        title = "" if num_channels == 3 else f"picture that is not of 8 bits and {channels}: it is converted"
        facts.cases.append(Case("picture_mode", text, (facts.image_name,), details=details, title=title))


def _judge_mask_file(header: Header, facts: PairFacts) -> None:
    if header.mode == "P":
        facts.cases.append(Case("palette_mask", "", (facts.label_name,)))
    elif header.mode in ("RGB", "RGBA", "LA") or (header.channels or 1) > 1:
        facts.cases.append(Case("equal_channels", header.mode, (facts.label_name,), details={"mode": header.mode}))
    elif header.mode == "F" or header.mode.startswith("I"):
        facts.cases.append(Case("wide_mask", header.mode, (facts.label_name,), details={"mode": header.mode}))


def _judge_rotation(image: Header, label: Header, facts: PairFacts) -> None:
    """Add a case for EXIF rotations that says how `decode_pair` handles them."""
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
    bad = rule.outside(ids)
    if bad:
        facts.cases.append(ids_case(bad, ids, rule, facts.label_name))


def ids_case(bad: Mapping[int, int], seen: Collection[int], rule: LabelRule, name: str) -> Case:
    """The case of ids that are no class.

    Args:
        bad: number of pixels by id, of these ids only.
        seen: all ids of the same masks.
        rule: what the ids in masks mean.
        name: name of the mask.
    """
    return Case(
        "ids_out_of_range",
        list_ids(bad),
        (name,),
        details={"ids": _json_ids(bad)},
        title=f"label ids outside {rule.in_words()}",
        fix=f"likely fix: {rule.likely_fix(bad, seen)}",
    )


def _json_ids(ids: Mapping[int, int], most: int = 256) -> dict[str, int]:
    return {str(label): pixels for label, pixels in list(ids.items())[:most]}


def few_levels_case(brightest: int | None) -> Case | None:
    """The case of a data set whose pictures of 16 bits hold the values of 14 or fewer, or None.

    Args:
        brightest: the largest of their grey levels, see `PairFacts`; None if there are no such pictures.
    """
    if brightest is None or brightest >= _DARK:
        return None
    levels, factor = brightest + 1, 256 // (brightest + 1)
    return Case(
        "few_grey_levels",
        f"all values are below {levels * 256} of 65536, so that {levels} of 256 grey levels are left",
        details={"levels": levels, "factor": factor},
        fix=f"the upper 8 bits of each value are read: multiply all pictures by the same factor, here at most {factor}, or save "
        "them as 8 bits",
    )


def crop_case(size: tuple[int, int], scaled: tuple[int, int], crop_size: tuple[int, int], name: str) -> Case | None:
    """The case of a picture that is smaller than the crop, or None.

    Args:
        size: (height, width) of the picture in pixels.
        scaled: (height, width) after resizing, before random scaling.
        crop_size: (height, width) of the crops.
        name: the picture's name.
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
