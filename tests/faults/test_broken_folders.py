"""Every file of a saved model is damaged in every way that can be thought of; what loads gives the right output, or one line says why not."""

import contextlib
import copy
import json
import os
import shutil
import signal
import struct
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

import segzoo
from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.hub import save_model_folder
from segzoo.inference import Predictor
from segzoo.weight_hashes import HASHES

CONFIG, PREPROCESSOR, WEIGHTS, INDEX = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)  # SegFormer takes none below 32
KINDS = ("whole", "split", "segformer")

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="pipes, links and alarms of POSIX"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sound folder of each kind: with one file of weights, with several, and of a model of transformers."""
    root = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    model, processor = SegZooForSemanticSegmentation(SegZooConfig.tiny()), SegZooImageProcessor(do_resize=False)
    save_model_folder(model, processor, root / "whole")
    save_model_folder(model, processor, root / "split", max_shard_size=60_000)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    segformer = SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=16))
    segformer.save_pretrained(root / "segformer")
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "segformer")
    return root


class Attack:
    """Breaks copies of the folders, and notes what neither is refused in one line nor gives the right output."""

    def __init__(self, folders: Path, copies: Path):
        self.folders, self.copy = folders, copies / "model"
        self.wrong: list[str] = []
        self.count = 0
        self.right = {kind: output(folders / kind) for kind in KINDS}

    def __call__(self, kind, name, what, damage, *, may_differ=False):
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir()
        for path in (self.folders / kind).iterdir():  # links: only what is damaged is copied
            (shutil.copy if path.name == name else os.link)(path, self.copy / path.name)
        damage(self.copy / name)
        self.count += 1
        case = f"{kind}/{name}: {what}"
        try:
            with within(20):
                found = output(self.copy)
        except SegZooError as error:
            said = str(error)
            named = name in said or ("safetensors" in name and "weights" in said)
            if not said.startswith(str(self.copy)) or "\n" in said or len(said) > 600 or not named:
                self.wrong.append(f"{case}: {said}")
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.wrong.append(f"{case}: {type(error).__name__}: {error} at {place.filename}:{place.lineno}")
        else:
            if not may_differ and not torch.equal(found, self.right[kind]):
                self.wrong.append(f"{case}: another output without a word")

    def held(self, least):
        assert self.count >= least and not self.wrong, "\n".join(self.wrong)


@pytest.fixture
def attack(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return Attack(folders, tmp_path)


@contextlib.contextmanager
def within(seconds):
    def late(*_):
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def output(folder):
    model, processor = segzoo.load(folder)
    return Predictor(model, processor).label_map(PICTURE, PICTURE.shape[:2])


# --- any file ---


def instead(make):
    """Puts something else in a file's place."""
    return lambda path: (path.unlink(), make(path))


def content(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": content(lambda old: b""),
    "half": content(lambda old: old[: len(old) // 2]),
    "one byte short": content(lambda old: old[:-1]),
    "zeros": content(lambda old: bytes(len(old))),
    "garbage": content(lambda old: bytes(range(256)) * 4),
    "UTF-16": content(lambda old: old.decode("latin-1").encode("utf-16")),
    "a web page": content(lambda old: b"<!DOCTYPE html><html><body>404</body></html>"),
    "an LFS pointer": content(lambda old: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
    "twice": content(lambda old: old * 2),
    "a folder": instead(Path.mkdir),
    "a link to nothing": instead(lambda path: path.symlink_to("nothing")),
    "a link to itself": instead(lambda path: path.symlink_to(path.name)),
    "a pipe": instead(os.mkfifo),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "unreadable": lambda path: path.chmod(0),
}


def test_any_file(attack):
    for kind, names in (
        ("whole", (CONFIG, PREPROCESSOR, WEIGHTS, HASHES)),
        ("split", (INDEX,)),
        ("segformer", (PREPROCESSOR, WEIGHTS)),
    ):
        for name in names:
            for what, damage in DAMAGE.items():
                attack(kind, name, what, damage)
    attack.held(7 * len(DAMAGE))


def test_flipped_bytes_of_weights(attack, folders):
    for kind in ("whole", "split"):
        name = WEIGHTS if kind == "whole" else min(p.name for p in (folders / kind).glob("model-*"))
        size = (folders / kind / name).stat().st_size
        for position in range(0, size, size // 4):
            attack(kind, name, f"byte {position} flipped", content(lambda old, at=position: flipped(old, at)))
    attack.held(8)


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]


# --- JSON ---

DEEP = 20_000
TEXTS = {
    "null": "null",
    "list": "[]",
    "number": "3",
    "text": '"segzoo"',
    "true": "true",
    "NaN": "NaN",
    "nothing in it": "{}",
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "a deep value": '{"id2label": ' + "[" * DEEP + "]" * DEEP + "}",
    "a number of many digits": '{"num_labels": ' + "9" * 5000 + "}",
    "a comma too many": '{"model_type": "segzoo",}',
}
WRONG = [
    None,
    "x",
    "",
    -1,
    10**12,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
    [None],
    ["x"],
    [[1]],
    {"x": 1},
    [10**12] * 3,
    -(10**30),
    [10**9] * 4,
]


def keys(values, path=()):
    """The path of each key in nested dicts, and in lists of dicts."""
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            yield from keys(value, (*path, key))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for index, entry in enumerate(value):
                yield from keys(entry, (*path, key, index))


def at(values, path):
    for key in path:
        values = values[key]
    return values


def replaced(values, path, value):
    values = copy.deepcopy(values)
    at(values, path[:-1])[path[-1]] = value
    return json.dumps(values)


def writes(text):
    return lambda path: path.write_text(text)


def test_json_files_that_hold_something_else(attack):
    for kind, name in (
        *((kind, name) for kind in ("whole", "segformer") for name in (CONFIG, PREPROCESSOR)),
        ("split", INDEX),
    ):
        for what, text in TEXTS.items():
            attack(kind, name, what, writes(text))
    attack.held(5 * len(TEXTS))


@pytest.mark.parametrize("each", [1, pytest.param(len(WRONG), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [CONFIG, PREPROCESSOR])
@pytest.mark.parametrize("kind", ["whole", "segformer"])
def test_values_of_wrong_types(kind, name, each, attack, folders):
    values = json.loads((folders / kind / name).read_text())
    turn = 0
    for path in keys(values):
        for _ in range(each):
            wrong, turn = WRONG[turn % len(WRONG)], turn + 1
            is_a_setting = wrong is None or isinstance(wrong, bool) or type(wrong) is type(at(values, path))
            is_a_setting |= path == ("image_mean",) and isinstance(wrong, int)  # one number for all channels
            what = f"{'.'.join(map(str, path))}={wrong!r:.40}"
            attack(kind, name, what, writes(replaced(values, path, wrong)), may_differ=is_a_setting)
    attack.held(10)


def test_an_index_that_names_other_files(attack, folders):
    index = json.loads((folders / "split" / INDEX).read_text())
    first = next(iter(index["weight_map"]))
    for part in ("none.safetensors", "../config.json", "/etc/passwd", "", ".", CONFIG, HASHES, None, 3, ["a"], "a\0b"):
        text = replaced(index, ("weight_map", first), part)
        attack("split", INDEX, f"a part is {part!r}", writes(text))
        text = json.dumps({**index, "weight_map": dict.fromkeys(index["weight_map"], part)})
        attack("split", INDEX, f"all parts are {part!r}", writes(text))
    for weights in ({}, [], None, 3, {"other": "model-00001-of-00002.safetensors"}):
        attack("split", INDEX, f"weight_map is {weights!r}", writes(json.dumps({**index, "weight_map": weights})))
    missing = {key: part for key, part in index["weight_map"].items() if key != first}
    attack("split", INDEX, "a weight less", writes(json.dumps({**index, "weight_map": missing})))
    attack.held(25)


# --- the header of safetensors ---


def header(change):
    """Changes the header of a file of weights, which is JSON behind its length."""

    def damage(path):
        old = path.read_bytes()
        (length,) = struct.unpack("<Q", old[:8])
        text = change(json.loads(old[8 : 8 + length]))
        text = (text if isinstance(text, str) else json.dumps(text)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + old[8 + length :])

    return damage


def first(**changes):
    """A header whose first tensor is described in another way."""

    def change(values):
        name = next(name for name in values if name != "__metadata__" and len(values[name]["shape"]) == 4)
        return {**values, name: {**values[name], **changes}}

    return header(change)


def length(value):
    return content(lambda old: struct.pack("<Q", value) + old[8:])


HEADERS = {
    "length 0": length(0),
    "length 2": length(2),
    "length of the file": length(10**5),
    "length 2**63": length(2**63),
    "length 2**64-1": length(2**64 - 1),
    "null": header(lambda values: "null"),
    "list": header(lambda values: "[]"),
    "nothing": header(lambda values: {}),
    "deep": header(lambda values: "[" * DEEP + "]" * DEEP),
    "negative offsets": first(data_offsets=[-8, 0]),
    "offsets the wrong way": first(data_offsets=[64, 0]),
    "offsets beyond": first(data_offsets=[0, 2**62]),
    "offsets of 1e30": first(data_offsets=[0, 1e30]),
    "one offset": first(data_offsets=[0]),
    "overlap": first(data_offsets=[0, 4]),
    "unknown type": first(dtype="F7"),
    "no type": first(dtype=None),
    "integers": first(dtype="I32"),
    "half precision": first(dtype="F16"),
    "negative shape": first(shape=[-1]),
    "huge shape": first(shape=[2**40, 2**40]),
    "another shape": first(shape=[1]),
    "no shape": first(shape=None),
    "a weight less": header(lambda values: dict(list(values.items())[:-1])),
    "another name": header(lambda v: {("x." + k if i == 3 else k): e for i, (k, e) in enumerate(v.items())}),
    "no metadata": header(lambda values: {key: entry for key, entry in values.items() if key != "__metadata__"}),
    "metadata of numbers": header(lambda values: {**values, "__metadata__": {"format": 3}}),
    "another format": header(lambda values: {**values, "__metadata__": {"format": "tf"}}),
    "the same name twice": header(lambda values: json.dumps(values)[:-1] + ', "a": 1, "a": 2}'),
}


@pytest.mark.parametrize("kind", [pytest.param("whole", marks=pytest.mark.slow), "segformer"])
def test_headers_of_weights(kind, attack):
    for what, damage in HEADERS.items():
        # Without a hash nothing tells that numbers were of another type of the same size.
        attack(kind, WEIGHTS, what, damage, may_differ=kind == "segformer" and what == "integers")
    attack.held(25)
