"""Code blocks of the written pages, and a folder with everything that they name.

A page is written as if the reader had a model folder ``model``, pictures, a data set and a checkpoint. `make_reader_folder` makes all
of them, tiny, under exactly the names that the pages use, so that blocks run as they stand. Nothing is replaced.

A comment on the line before a block says where it is special: ``<!-- test: slow -->``, or ``<!-- test: no, REASON -->`` for what
cannot run in a test (it needs a network, a GPU, hours), whose command lines are parsed all the same, or ``<!-- test: file NAME -->`` for
the content of a file that later blocks use.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conversion import tiny
from support.tiny_folders import make_model, make_scenes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted(ROOT.glob("docs/*.md"))
GENERATED = ("models.md", "zoo.md", "data_sets.md")
"""Pages that scripts write: their command lines are parsed, and not run."""

TRAINING = {
    "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005},
    "optimizer_config": {},
    "lr_config": {"policy": "poly", "power": 0.9, "min_lr": 1e-4, "by_epoch": False},
    "runner": {"type": "IterBasedRunner", "max_iters": 80000},
}
"""What the reader's config says of its training."""

_FENCE = re.compile(r"^(?:<!-- test: (?P<test>.*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`(segzoo [^`\n]+)`(?!`)|^ {4}(segzoo .+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the number of its first line, and what its comment says."""

    page: Path
    line: int
    language: str
    code: str
    test: str

    @property
    def slow(self) -> bool:
        return self.test == "slow"

    @property
    def runs(self) -> bool:
        return not self.test.startswith("no, ") and self.page.name not in GENERATED

    def commands(self) -> Iterator[list[str]]:
        """The words of each command line of a shell block."""
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start("code")) + 1, m["language"], m["code"], m["test"] or "")
        for m in _FENCE.finditer(text)
    ]


def inline_commands(page: Path) -> list[str]:
    """The command lines of segzoo within the text of a page, in tables for example, and in indented lines."""
    return [a or b for a, b in _INLINE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))]


def segzoo_words(words: list[str]) -> list[str] | None:
    """The words after the program's name, of ``segzoo ...`` or ``LAUNCHER ... -m segzoo ...``; None for other programs."""
    if words[0] == "segzoo":
        return words[1:]
    for index in range(len(words) - 1):
        if words[index : index + 2] == ["-m", "segzoo"]:
            return words[index + 2 :]
    return None


def make_reader_folder(folder: Path) -> Path:
    """A folder with what the pages name: ``model``, ``me/my-model``, ``my_data``, pictures, a checkpoint and its config."""
    model = make_model(folder / "model")
    shutil.copytree(model, folder / "me" / "my-model")
    shutil.copytree(make_scenes(folder / "my_data"), folder / "more_data")
    pictures = sorted((folder / "my_data" / "images" / "train").iterdir())
    (folder / "photos").mkdir()
    shutil.copy(pictures[0], folder / "street.png")
    shutil.copy(pictures[1], folder / "photos" / "first.png")
    shutil.copy(pictures[2], folder / "photos" / "second.png")
    write_outlines(folder / "export", pictures[3])
    values = tiny.config() | TRAINING
    (folder / "my_config.py").write_text(tiny.config_text(values), encoding="utf-8")
    tiny.save(folder / "iter_80000.pth", values)
    (folder / "classes.json").write_text(json.dumps({"0": "sky", "1": "road", "2": "car", "3": "tree"}))
    return folder


def write_outlines(folder: Path, picture: Path) -> None:
    """A picture with one outline, as LabelMe writes it."""
    folder.mkdir()
    shutil.copy(picture, folder / "first.png")
    outline = {"label": "road", "shape_type": "polygon", "points": [[2, 30], [60, 30], [60, 44], [2, 44]]}
    export = {"imagePath": "first.png", "imageHeight": 48, "imageWidth": 64, "shapes": [outline]}
    (folder / "first.json").write_text(json.dumps(export), encoding="utf-8")
