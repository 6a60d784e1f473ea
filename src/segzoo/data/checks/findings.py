"""What a check of a data set can find: kinds with their severity and fix, single cases, and cases grouped by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""Errors stop a training or make it wrong; warnings are likely mistakes; notes are handled and worth knowing."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem that can be found.

    Attributes:
        severity: "error", "warning" or "note".
        title: the problem, as a phrase that reads well before a colon.
        fix: what to do about it; empty if nothing has to be done.
    """

    severity: str
    title: str
    fix: str = ""


KINDS: dict[str, Kind] = {
    # Files that do not pair up.
    "image_without_mask": Kind(
        ERROR, "picture without mask", "add the mask under the same name, or take the picture out"
    ),
    "mask_without_image": Kind(
        ERROR, "mask without picture", "add the picture under the same name, or take the mask out"
    ),
    "duplicate_stem": Kind(ERROR, "several files of one name", "keep one of the files, or rename the others"),
    "split_without_masks": Kind(
        ERROR, "split without masks", "add the masks beside the pictures, or take the pictures out"
    ),
    "split_without_images": Kind(
        ERROR, "split without pictures", "add the pictures beside the masks, or take the masks out"
    ),
    "test_without_masks": Kind(NOTE, "test split without masks: it is left out"),
    "empty_split": Kind(
        ERROR, "split without any pair", "put pictures and masks of equal names there, or take the folder out"
    ),
    "annotations": Kind(ERROR, "no masks yet", "make masks of the annotations: segzoo data masks SOURCE TARGET"),
    # Files that cannot be used.
    "unreadable_image": Kind(ERROR, "corrupt picture", "fetch or export the file again, or take the pair out"),
    "unusable_image": Kind(ERROR, "picture whose values or channels have no place in a model's input"),
    "unreadable_mask": Kind(ERROR, "corrupt mask", "fetch or export the file again, or take the pair out"),
    "sizes_differ": Kind(
        ERROR,
        "picture and mask differ in size",
        "export the mask at the picture's size, unsmoothed (nearest neighbour)",
    ),
    "color_mask": Kind(
        ERROR,
        "mask of colours instead of class ids",
        "name the colours: segzoo data masks DATA TARGET --palette FILE (in Python: segzoo.data.colors_to_ids)",
    ),
    "unusable_mask": Kind(ERROR, "mask whose values are no class ids"),
    "lossy_mask": Kind(
        ERROR,
        "mask compressed with losses",
        "export masks as PNG from where they were drawn: JPEG and lossy WebP change ids beyond repair",
    ),
    # Labels.
    "ids_out_of_range": Kind(ERROR, "label ids outside the classes"),
    "black_and_white": Kind(
        WARNING,
        "masks of 0 and 255 alone",
        "if 255 is the second class, store 1 instead (divide by 255): 255 does not count, so class 1 never appears",
    ),
    "labels_start_at_one": Kind(
        WARNING,
        "ids seem to be off by one",
        "if 0 stands for 'no class' and 1 for the first one, pass --do_reduce_labels (do_reduce_labels=True)",
    ),
    "labels_start_at_zero": Kind(
        WARNING,
        "ids seem to be off by one",
        "if 0 is the first class, leave out --do_reduce_labels (do_reduce_labels=False), which turns it into 'no "
        "class'",
    ),
    "only_ignored": Kind(
        WARNING, "mask of ignored pixels only", "label it, or take the pair out: nothing is learnt from it"
    ),
    "class_absent": Kind(
        WARNING, "class that never appears", "check the class list and the ids; such a class cannot be learnt"
    ),
    "class_absent_here": Kind(NOTE, "class that never appears in a part", "its score cannot be measured there"),
    "classes_unknown": Kind(
        NOTE, "unknown number of classes", "pass --classes or --num_labels, so that ids out of range can be found"
    ),
    # Pictures.
    "leakage": Kind(
        WARNING, "same picture in two splits", "keep it in one of them: scores on pictures seen in training mislead"
    ),
    "duplicate_picture": Kind(NOTE, "same picture twice in a split"),
    "smaller_than_crop": Kind(
        WARNING,
        "picture smaller than the crop",
        "it is padded with ignored pixels: lower --crop_size, or scale pictures up",
    ),
    "few_grey_levels": Kind(
        WARNING,
        "pictures of 16 bits that leave most of their range unused",
        "the upper 8 bits of each value are read: multiply all pictures by the same factor",
    ),
    "exif_differs": Kind(
        WARNING,
        "mask with an EXIF rotation that its picture has not",
        "save both upright; as it is, the mask is turned as its own tag says",
    ),
    "exif_ambiguous": Kind(
        WARNING,
        "EXIF rotation of a picture whose mask may be upright or not",
        "look at the pair with `segzoo data show`; the mask is taken as it is stored. Save the picture upright to be "
        "sure",
    ),
    "large_picture": Kind(
        NOTE,
        "picture of so many pixels that reading it whole for each sample is slow and takes much memory",
        "read TIFF files by windows: --tile 1024, in `segzoo train` and `segzoo evaluate` too",
    ),
    "exif_rotation": Kind(NOTE, "picture with EXIF rotation"),
    # Handled.
    "palette_mask": Kind(NOTE, "palette mask: its indices are taken as class ids, not its colours"),
    "equal_channels": Kind(NOTE, "mask of several equal channels: the first one is taken as class ids"),
    "wide_mask": Kind(NOTE, "mask of more than 8 bits: its values are taken as class ids"),
    "picture_mode": Kind(NOTE, "picture that is not 8-bit RGB: it is converted"),
}


@dataclass(frozen=True)
class Case:
    """A problem that was found in one place.

    Attributes:
        kind: key in `KINDS`.
        text: what is particular to this case, such as ids with their counts; may be empty.
        files: the files that it is about.
        split: the split that they belong to; "" for several or none.
        details: the numbers in `text`, as JSON values.
        title, fix: title and fix that replace the kind's; empty keeps these.
    """

    kind: str
    text: str = ""
    files: tuple[str, ...] = ()
    split: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    fix: str = ""

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind].severity

    def sentence(self) -> str:
        """Files, problem and fix in one line."""
        kind = KINDS[self.kind]
        named = f"{' and '.join(self.files)}: " if self.files else ""
        title = self.title or kind.title
        told = f"{title}: {self.text}" if self.text else title
        fix = self.fix or kind.fix
        return f"{named}{told}" + (f"; {fix}" if fix else "")


@dataclass
class Finding:
    """All cases of one kind.

    Attributes:
        kind: key in `KINDS`.
        title: the problem, as a phrase.
        fix: what to do about most of the cases.
        count: number of cases.
        cases: the first cases, not necessarily all.
    """

    kind: str
    title: str
    fix: str
    count: int
    cases: list[Case]

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, Any]:
        """The finding with its first cases as JSON values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "title": self.title,
            "fix": self.fix,
            "count": self.count,
            "cases": [
                {
                    "split": case.split,
                    "files": list(case.files),
                    "text": case.text,
                    "fix": case.fix or KINDS[case.kind].fix,
                    "details": dict(case.details),
                }
                for case in self.cases
            ],
            "cases_left_out": self.count - len(self.cases),
        }


class Findings:
    """Collects cases by kind in bounded memory.

    Args:
        keep: number of cases of each kind that are kept; further ones are only counted.
    """

    def __init__(self, keep: int = 1000):
        self.keep = keep
        self._found: dict[str, Finding] = {}
        self._fixes: dict[str, Counter[str]] = {}

    def add(self, case: Case) -> None:
        """Add one case to its kind; the finding's fix becomes the commonest of its cases."""
        kind = KINDS[case.kind]
        new = Finding(case.kind, case.title or kind.title, case.fix or kind.fix, 0, [])
        found = self._found.setdefault(case.kind, new)
        found.count += 1
        fixes = self._fixes.setdefault(case.kind, Counter())
        fixes[case.fix or kind.fix] += 1
        found.fix = fixes.most_common(1)[0][0]
        if len(found.cases) < self.keep:
            found.cases.append(case)

    def sorted(self) -> list[Finding]:
        """The findings, errors first, then in the order of `KINDS`."""
        order = list(KINDS)
        return sorted(self._found.values(), key=lambda f: (SEVERITIES.index(f.severity), order.index(f.kind)))
