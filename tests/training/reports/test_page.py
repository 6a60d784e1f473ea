"""The report page, read back: complete HTML, nothing loaded from elsewhere, and the training's numbers."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.images.drawing import default_palette, draw_confusion_matrix
from segzoo.training.reports.page import TrainingReport, write_report_page

VOID = {"meta", "img", "br", "link", "hr", "input"}
NAMES = ["sky", "road & path", "<b>car</b>"]
MATRIX = torch.tensor([[60, 20, 0], [0, 20, 0], [0, 0, 0]])


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element that opens also closes, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def report(**changes):
    fields = {
        "title": "street <model> & co",
        "summary": 'UPerNet on "ResNet-50".',
        "dataset": "CamVid",
        "num_images": 1234,
        "protocol": "single scale, whole image",
        "confusion": MATRIX,
        "names": NAMES,
        "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "step": 2000,
        "best": {"step": 1500, "mean_iou": 0.876},
        "history": [{"step": i, "loss": 1.0, "images_per_second": s} for i, s in enumerate([0.5, 20.0, 22.0])],
        "seconds": 3725.0,
        "recipe": {
            "name": "upernet_r50",
            "source": "mmsegmentation",
            "learning_rate": 6e-5,
            "crop_size": [512, 512],
            "losses": [{"type": "dice"}],
            "ema_decay": None,
        },
        "other_scores": [("scales 0.75 and 1, mirrored", 0.651)],
        "data": {"training images": 36712},
        "hardware": {"device": "CPU"},
        "software": {"torch": "2.15"},
        "model_name": "out/my model",
    }
    return TrainingReport(**fields | changes)


def write(directory, **changes):
    path = write_report_page(directory, report(**changes))
    assert path == directory / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def figures(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("curves.png", "samples.png", "overlay_1.png", "overlay_2.png", "overlay_10.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    draw_confusion_matrix(MATRIX, NAMES, folder / "confusion_matrix.png")
    return folder


def test_says_what_it_was_told(tmp_path, figures):
    text = write(tmp_path).text
    for words in (
        "street <model> & co",
        'UPerNet on "ResNet-50".',
        "CamVid, validation: 1,234 images, after step 2,000. single scale, whole image.",
        "best evaluation was 87.6 % after step 1,500",
        "mean IoU 62.5 %",  # of 60/80 and 20/40; the third class does not occur
        "pixel accuracy 80.0 %",
        "learning_rate 6e-05",
        "crop_size 512, 512",
        'losses [{"type": "dice"}]',
        "Not set: ema_decay.",
        "Recipe upernet_r50 (mmsegmentation); the values",
        "65.1 % mean IoU otherwise: scales 0.75 and 1, mirrored.",
        "training images 36,712",
        "time 1h02m",
        "images per second in training 20.0",
        "device CPU",
        "torch 2.15",
        "--model 'out/my model'",
        'pipeline("image-segmentation", "out/my model")',
    ):
        assert words in text, words


def test_classes_have_bars_colours_and_shares(tmp_path):
    path = write_report_page(tmp_path, report())
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", path.read_text(), flags=re.DOTALL)
    assert len(rows) == 3
    assert "rgb(1,2,3)" in rows[0] and "width:75.0%" in rows[0] and ">80.00<" in rows[0]
    assert "road &amp; path" in rows[1] and "width:50.0%" in rows[1] and ">20.00<" in rows[1]
    assert "&lt;b&gt;car&lt;/b&gt;" in rows[2] and "<b>–</b>" in rows[2] and "width:0.0%" in rows[2]


def test_pictures_are_relative_and_there(tmp_path, figures):
    page = write(tmp_path)
    sources = [image["src"] for image in page.all("img")]
    assert sources == [
        "figures/curves.png",
        "figures/samples.png",
        "figures/overlay_1.png",
        "figures/overlay_2.png",
        "figures/overlay_10.png",
        "figures/confusion_matrix.png",
    ]
    assert all((tmp_path / source).is_file() for source in sources)
    assert all(image["alt"] for image in page.all("img"))


def test_needs_nothing_from_elsewhere(tmp_path, figures):
    page = write(tmp_path)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object"}
    targets = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert targets and all(target.startswith(("#", "figures/")) for target in targets)
    style = (tmp_path / "report.html").read_text()
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and 'name="viewport"' in style


def test_links_lead_to_sections_that_are_there(tmp_path):
    page = write(tmp_path, data={}, recipe={})  # no figures either
    sections = [section["id"] for section in page.all("section")]
    assert sections == ["classes", "use-it", "time-and-machine", "software"]
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in sections]


def test_many_classes_fold(tmp_path):
    count = 150
    matrix = np.full((count, count), 1) + np.diag(10 * np.arange(count))
    names = [f"class {i}" for i in range(count)]
    page = write(tmp_path, confusion=matrix, names=names, palette=default_palette(count))
    assert "All 150 classes" in page.text and len(page.all("details")) == 1
    highest, lowest = page.text.index("Highest IoU"), page.text.index("Lowest IoU")
    assert highest < page.text.index("class 149 ") < lowest < page.text.index("class 0 ")
    assert len(page.all("tr")) == 1 + 150 + 2 * (1 + 8)


def test_warnings(tmp_path):
    page = write(tmp_path, synthetic=True, notes=["2 pictures were left out: <a>.png"])
    assert "Synthetic data" in page.text and "left out: <a>.png" in page.text
    assert "Synthetic" not in write(tmp_path).text


def test_only_ignored_pixels(tmp_path):
    text = write(tmp_path, confusion=torch.zeros(3, 3, dtype=torch.int64), best=None, step=None, history=()).text
    assert "mean IoU – %" in text and "after the last step" in text and "best evaluation" not in text
