"""Hostile names of classes, pictures, data, folders and keys: what leaves the commands shows them and does nothing."""

import contextlib
import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.cards.model_card import ModelCardFacts, build_model_card
from segzoo.commands.cli import main
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.report import ConversionReport, KeyMatch
from segzoo.text import MOST_IN_MESSAGE, line_text

TAGS, BAR, HEADING, PICTURE = (
    "<script>alert(1)</script>",
    "a | b ` c",
    "x\n\n# heading\n- item",
    "![x](http://e.example/p.png)",
)
TITLE, TURNED, FORMULA, HALF = "\x1b]0;owned\x07\r", "\u202edaor", "=cmd|' /C calc'!A0", "\udc80 half"
NAMES = [TAGS, BAR, HEADING, PICTURE, TITLE, TURNED, FORMULA, HALF, "$\\frac{", "k" * 100_000]
PICTURES = ["<b>x\n# heading.png", "\x1b[2J|`x`\u202e.png", "=1+1.png", "plain.png"]
DATA, OUT = "data <i>|`x`\n# heading $_{$", "out <i>|`x`\x1b[2J\n# heading"
SECRET = "s3cr3tS3cr3t"


def is_clean(text, allowed="\n"):
    """Whether a text has no control code, no mark of direction, no half of a pair."""
    return all(unicodedata.category(c)[0] != "C" or c in allowed for c in text)


def command(*words):
    """Exit status and everything printed by a command in this process; nothing printed may act on a terminal."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main([str(word) for word in words])
    text = printed.getvalue()
    assert is_clean(text) and not re.search("^(# heading|- item)", text, re.MULTILINE), ascii(text)
    return status, text


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data and a model that was trained on them for a step; all names are hostile."""
    place = tmp_path_factory.mktemp("hostile")
    for split in ("training", "validation"):
        for folder in ("images", "annotations"):
            (place / DATA / folder / split).mkdir(parents=True)
        for name in PICTURES:
            rng = np.random.default_rng(0)
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(place / DATA / "images" / split / name)
            labels = rng.integers(0, len(NAMES), (32, 32), np.uint8)
            Image.fromarray(labels).save(place / DATA / "annotations" / split / name)
    (place / "names.json").write_text(json.dumps(dict(enumerate(NAMES))))
    config = SegZooConfig(**{**SegZooConfig.tiny().to_dict(), "id2label": dict(enumerate(NAMES)), "palette": None})
    SegZooForSemanticSegmentation(config).save_pretrained(place / "model")
    SegZooImageProcessor(do_resize=False).save_pretrained(place / "model")
    words = {"dataset_name": place / DATA, "model_name_or_path": place / "model", "classes": place / "names.json"}
    words |= {"crop_size": 32, "per_device_train_batch_size": 2, "max_train_steps": 1, "dataloader_num_workers": 0}
    words |= {"output_dir": place / OUT}
    status, text = command(
        "train", "--use_cpu", *(word for name, value in words.items() for word in (f"--{name}", value))
    )
    assert status == 0, text
    return place


class Elements(HTMLParser):
    """The elements of a page, by name."""

    def __init__(self, page):
        super().__init__()
        self.names, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def check_card(card, *, sections):
    """Metadata that can be read, our headings alone, and no mark-up but ours."""
    metadata, body = re.match(r"---\n(.*?\n)---\n(.*)", card, re.DOTALL).groups()
    assert is_clean(card) and isinstance(yaml.safe_load(metadata), dict)
    assert re.findall("^#+ .*", body, re.MULTILINE)[1:] == sections and len(card) < 100_000
    tokens = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    assert sum(token.type == "heading_open" for token in tokens) == len(sections) + 1
    assert not [t for t in inline if t.type == "image" or (t.type == "link_open" and "e.example" in t.attrs["href"])]
    assert {t.content for t in inline if t.type == "html_inline"} <= {"<code>", "</code>"}
    pages = [Elements(token.content).names for token in tokens if token.type == "html_block"]
    assert {name for names in pages for name in names} <= {"details", "summary"}
    return yaml.safe_load(metadata), "".join(token.content for token in inline)


def test_a_training_publishes_names_that_do_nothing(place):
    out = place / OUT
    sections = ["## Use", "## Scores", "## Where the weights come from", "## Training", "## Classes", "## Limits"]
    metadata, text = check_card((out / "README.md").read_text("utf-8"), sections=sections)
    assert (
        metadata["model-index"][0]["results"][0]["dataset"]["name"] == line_text(DATA) and "datasets" not in metadata
    )
    assert TAGS in text and PICTURE in text and line_text(TITLE).strip() in text and line_text(HALF) in text
    page = (out / "report.html").read_text("utf-8")
    elements = Elements(page)
    assert is_clean(page) and "script" not in elements.names and len(page) < 200_000
    assert elements.names.count("i") == elements.names.count("b") == len(NAMES)  # the bars and scores, and no other
    assert TAGS in elements.text and line_text(OUT) in elements.text
    # What is uploaded tells nothing about this machine.
    uploaded = [path for path in out.iterdir() if path.suffix in (".html", ".md", ".json", ".jsonl", ".yaml")]
    assert len(uploaded) > 5
    for path in uploaded:
        assert str(place) not in path.read_text("utf-8"), path.name
    results = json.loads((out / "all_results.json").read_text("utf-8"))
    assert {f"eval_iou_{name}" for name in NAMES} <= results.keys()  # JSON holds the names themselves
    assert is_clean((out / "all_results.json").read_text("utf-8"))


def test_an_evaluation(place):
    results = place / "results"
    status, text = command(
        "evaluate", place / OUT, place / DATA, "--output", results, "--write_card", "--device", "cpu", "--worst", 1
    )
    assert status == 0 and line_text(TITLE).strip() in text and line_text(DATA) in text and len(text) < 20_000
    check_card((place / OUT / "README.md").read_text("utf-8"), sections=[
        "## Use", "## Scores", "## Where the weights come from", "## Training", "## Classes", "## Limits"
    ])  # fmt: skip
    held = json.loads((results / "results.json").read_text("utf-8"))
    assert [entry["name"] for entry in held["classes"]] == NAMES
    for name in ("results.json", "results.txt", "images.csv", "confusion_matrix.csv", "model-index.yaml"):
        assert is_clean((results / name).read_text("utf-8")), name
    for path in (results / "model-index.yaml", *(results / ".eval_results").iterdir()):
        assert yaml.safe_load(path.read_text("utf-8"))
    with (results / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:-1]] == [*map(line_text, NAMES[:6]), f"'{FORMULA}", line_text(HALF), NAMES[8]]
    with (results / "images.csv").open(encoding="utf-8", newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert len(names) == len(PICTURES) and not any(re.match(r"\s*[=+@-]", name) for name in names)


def test_info_and_predict(place):
    status, text = command("info", place / OUT)
    assert status == 0 and line_text(OUT) in text
    pictures = sorted((place / DATA / "images" / "validation").iterdir())
    status, text = command("predict", *pictures, "--model", place / OUT, "--output", place / "labelled")
    assert status == 0 and len(text.splitlines()) == len(PICTURES) + 3 and len(text) < 10_000
    facts = [json.loads(path.read_text("utf-8")) for path in (place / "labelled").glob("*.json")]
    assert {area["name"] for fact in facts for area in fact["classes"]} <= set(NAMES)
    assert sorted(fact["image"] for fact in facts) == list(map(str, pictures))
    status, text = command("data", "check", place / DATA, "--classes", place / "names.json")
    assert "checked" in text and len(text) < 20_000


def test_errors_are_short_and_keep_secrets(place, monkeypatch):
    monkeypatch.setattr("segzoo.zoo.download.PAUSES", ())
    state = {name: torch.zeros(1) for name in [*NAMES[:7], *NAMES[8:], "k" * 10**7]}
    torch.save({"state_dict": state}, place / "keys.pth")
    status, text = command("convert", place / "keys.pth", "--output", place / "converted")
    assert status == 1 and text.startswith("segzoo: error: ") and len(text) < MOST_IN_MESSAGE + 100
    address = f"http://me:{SECRET}@127.0.0.1:9/x.png?token={SECRET}"
    for words in (
        ["predict", address, "--model", place / "model", "--output", place / "nowhere"],
        ["evaluate", place / "model", address],
        ["evaluate", address, place / DATA],
        ["info", address],
        ["convert", address, "--output", place / "nowhere", "--cache_dir", place / "cache"],
        ["train", "--dataset_name", address, "--output_dir", place / "nowhere"],
    ):
        status, text = command(*words)
        assert status == 1 and SECRET not in text and "127.0.0.1" in text, text


def test_the_report_of_a_conversion():
    keys = KeyMatch(unexpected=[*NAMES, *map(str, range(100))], missing={"a": "k" * 10**6})
    with pytest.raises(ConversionError) as caught:
        keys.raise_for_problems("x\x1b[2J.pth")
    text = str(caught.value)
    assert is_clean(text) and "... and 70 more" in text and len(text) < MOST_IN_MESSAGE
    assert all(line.startswith(("  missing: ", "  unexpected: ")) for line in text.splitlines()[1:])
    keys = KeyMatch(renamed=dict.fromkeys(NAMES, TAGS), left_out=NAMES)
    report = ConversionReport(TAGS, "0" * 64, HEADING, None, [(BAR, PICTURE)], 1, HALF, NAMES, keys)
    sections = ["## Components", "## Notes", "## Left out", "## Keys"]
    check_card("---\na: b\n---\n" + report.to_markdown(), sections=sections)


def test_a_card_of_hostile_facts():
    def card(text):
        named = dict.fromkeys(
            ("title", "family", "backbone", "head", "dataset", "dataset_id", "dataset_url", "weights_licence", "code_licence",
             "licence_url", "source_url", "source_file", "source_code_url", "paper_url", "published_url", "verification",
             "inference", "repo_id", "base_model"), text)  # fmt: skip
        return build_model_card(ModelCardFacts(
            **named, classes=[text] * 2, training={text: text}, limitations=[text], tags=[text], published_miou=0.5
        ))  # fmt: skip

    sections = re.findall("^## .*", card("plain"), re.MULTILINE)
    for name in NAMES:
        check_card(card(name), sections=sections)
