"""What tests of a data set's check share: classes, files of a folder of pairs, and findings of a report."""

import numpy as np
import PIL.Image

from segzoo.data.checks.findings import KINDS, NOTE
from segzoo.data.checks.inspection_text import report_text
from segzoo.data.classes import ClassFacts

NAMES = ("sky", "road", "car", "tree", "person")
PALETTE = ((1, 2, 3), (40, 50, 60), (200, 0, 0), (0, 200, 0), (0, 0, 200))
FIVE = ClassFacts(dict(enumerate(NAMES)), [list(color) for color in PALETTE])
TWO = ClassFacts({0: "no", 1: "yes"}, [])
HEIGHT, WIDTH = 24, 32


def image_file(folder, stem, split="train"):
    return folder / "images" / split / f"{stem}.jpg"


def label_file(folder, stem, split="train"):
    return folder / "annotations" / split / f"{stem}.png"


def write_label(folder, stem, array, split="train", mode=None):
    image = PIL.Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(label_file(folder, stem, split))


def read_label(folder, stem, split="train"):
    return np.array(PIL.Image.open(label_file(folder, stem, split)))


def rotate(path, orientation, size=None):
    """Gives a picture file an EXIF orientation, and another stored (width, height)."""
    image = PIL.Image.open(path)
    image = image.resize(size) if size else image.copy()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def found(report):
    return {finding.kind: finding for finding in report.findings}


def only_case(report, kind, *paths):
    """The one case of the one finding, which is about these files."""
    assert [finding.kind for finding in report.findings] == [kind], report_text(report)
    (finding,) = report.findings
    assert finding.count == 1 and finding.severity == KINDS[kind].severity
    (case,) = finding.cases
    assert [str(name) for name in case.files] == [str(path) for path in paths]
    assert report.clean == (finding.severity == NOTE)
    return case
