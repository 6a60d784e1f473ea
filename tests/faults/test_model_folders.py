"""Model folders that are broken, damaged or changed: each is refused in one line that names the file."""

import hashlib
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

import segzoo
from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor, weight_hashes
from segzoo.commands.cli import main
from segzoo.hub import save_model_folder
from segzoo.weight_hashes import HASHES, remembered_sha256

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound folder."""
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    return save_model_folder(model, SegZooImageProcessor(do_resize=False), tmp_path_factory.mktemp("m") / "whole")


@pytest.fixture(scope="module")
def whole_segformer(tmp_path_factory):
    """A sound folder of a model of transformers."""
    folder = tmp_path_factory.mktemp("m") / "segformer"
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=16)).save_pretrained(folder)
    SegformerImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    """A copy to break, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def segformer(whole_segformer, tmp_path):
    return shutil.copytree(whole_segformer, tmp_path / "segformer")


def edit(change):
    """Change the values in a JSON file."""

    def apply(path):
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return apply


def edit_weights(change):
    """Change the weights and their hash, as a training that diverged would have saved them."""

    def apply(path):
        state = load_file(path)
        change(state)
        save_file(state, path, metadata={"format": "pt"})
        path.with_name(HASHES).unlink()

    return apply


def values(**entries):
    return edit(lambda config: config.update(entries))


def head(**entries):
    return edit(lambda config: config["decode_head_configs"][0].update(entries))


def backbone(**entries):
    return edit(lambda config: config["backbone_config"].update(entries))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def first_weight(value):
    def change(state):
        name = next(name for name in sorted(state) if name.endswith("weight"))
        state[name].view(-1)[0] = value

    return edit_weights(change)


def negative_variance(state):
    state[next(name for name in sorted(state) if name.endswith("running_var"))][0] = -1


BROKEN = {
    "model-type-list": (CONFIG, values(model_type=["segzoo"]), CONFIG),
    "model-type-unknown": (CONFIG, values(model_type="segzo"), CONFIG),
    "heads-number": (CONFIG, values(decode_head_configs=3), CONFIG),
    "heads-dict": (CONFIG, values(decode_head_configs={"a": 1}), CONFIG),
    "heads-of-numbers": (CONFIG, values(decode_head_configs=[3]), CONFIG),
    "heads-empty": (CONFIG, values(decode_head_configs=[]), CONFIG),
    "head-losses-text": (CONFIG, head(losses="dice"), CONFIG),
    "head-losses-numbers": (CONFIG, head(losses=[1]), CONFIG),
    "head-type-number": (CONFIG, head(model_type=3), CONFIG),
    "backbone-list": (CONFIG, values(backbone_config=[1]), CONFIG),
    "backbone-text": (CONFIG, values(backbone_config="resnet"), CONFIG),
    "backbone-unknown": (CONFIG, values(backbone_config={"model_type": "none"}), CONFIG),
    "backbone-maps": (CONFIG, backbone(out_features=[["stage1"]]), CONFIG),
    "backbone-strides-text": (CONFIG, backbone(strides="1222"), CONFIG),
    "id2label-list": (CONFIG, values(id2label=["road"]), CONFIG),
    "id2label-keys": (CONFIG, values(id2label={"road": "0"}), CONFIG),
    "id2label-numbers": (
        CONFIG,
        values(id2label={str(i): i for i in range(5)}, label2id=None),
        "class 0 is no text|field .id2label",
    ),
    "id2label-nested": (CONFIG, values(id2label={str(i): {"a": 1} for i in range(5)}, label2id=None), CONFIG),
    "id2label-gap": (
        CONFIG,
        values(id2label={"0": "a", "1": "b", "2": "c", "4": "d", "5": "e"}, label2id=None),
        "none of them has the id 3",
    ),
    "num-labels-text": (CONFIG, values(num_labels="five"), "num_labels='five'"),
    "num-labels-huge": (CONFIG, values(num_labels=10**12, id2label=None, label2id=None), "num_labels=1000000000000"),
    "head-labels-huge": (CONFIG, head(num_labels=10**12), "num_labels=1000000000000"),
    "width-huge": (CONFIG, head(channels=10**12), "channels=1000000000000 is out of range"),
    "layers-huge": (CONFIG, backbone(stem_channels=10**12), "stem_channels=1000000000000 is out of range"),
    "window-huge": (
        CONFIG,
        values(window_size=[10**12] * 2, window_stride=[10**12] * 2),
        "window_size=.* out of range",
    ),
    "eps-nan": (CONFIG, head(norm_eps=float("nan")), "norm_eps=nan is out of range"),
    "eps-negative": (CONFIG, backbone(norm_eps=-1), "norm_eps=-1.0 must not be negative"),
    "stride-0": (CONFIG, backbone(strides=[1, 2, 0, 2]), r"strides=\[1, 2, 0, 2\] must be 1 at least"),
    "dtype-unknown": (CONFIG, values(dtype="float17"), CONFIG),
    "mean-text": (PREPROCESSOR, values(image_mean="grey"), PREPROCESSOR),
    "mean-nan": (PREPROCESSOR, values(image_mean=[float("nan"), 0, 0]), r"image_mean=.*nan, 0, 0. must be finite"),
    "std-0": (PREPROCESSOR, values(image_std=[1, 0, 1]), r"image_std=.1, 0, 1. must be finite numbers above 0"),
    "std-inf": (PREPROCESSOR, values(image_std=float("inf")), "image_std=inf must be"),
    "factor-0": (PREPROCESSOR, values(rescale_factor=0.0), "rescale_factor=0.0 must be"),
    "size-huge": (PREPROCESSOR, values(size={"height": 10**12, "width": 9}), "size=.* is more than 65536 pixels"),
    "weights-nan": (WEIGHTS, first_weight(float("nan")), r"the weight \w+\S+ holds NaN or infinite"),
    "weights-inf": (WEIGHTS, first_weight(float("-inf")), r"the weight \w+\S+ holds NaN or infinite"),
    "weights-variance": (WEIGHTS, edit_weights(negative_variance), r"running_var holds a variance below 0"),
}
SEGFORMER = {
    "num-labels-huge": (CONFIG, values(num_labels=10**12, id2label=None, label2id=None), "num_labels=1000000000000"),
    "sizes-list": (CONFIG, values(hidden_sizes={"a": 1}), CONFIG),
    "depths-none": (CONFIG, values(depths=[]), "."),
    "std-0": (PREPROCESSOR, values(image_std=[1, 0, 1]), r"image_std=.1, 0, 1. must be"),
    "std-text": (PREPROCESSOR, values(image_std=["a", "b", "c"]), "image_std="),
    "names": (CONFIG, values(id2label={"0": "a", "1": None}, label2id=None), "class 1 is no text|config.json"),
    "names-from-1": (
        CONFIG,
        values(id2label={"1": "a", "2": "b"}, label2id=None),
        "none of them has the id 0, .* number the classes from 0 to 1 in id2label",
    ),
    "weights-cut": (WEIGHTS, cut, WEIGHTS),
}


def refused(folder, message, **options):
    with pytest.raises(SegZooError, match=message) as caught:
        segzoo.load(folder, **options)
    said = str(caught.value)
    assert said.startswith(str(folder)) and "\n" not in said and len(said) < 600, said
    return said


@pytest.mark.filterwarnings("ignore:the config of type")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder(case, folder, capfd):
    name, break_it, message = BROKEN[case]
    break_it(folder / name)
    refused(folder, message)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("case", SEGFORMER)
def test_a_broken_folder_of_transformers(case, segformer):
    name, break_it, message = SEGFORMER[case]
    break_it(segformer / name)
    refused(segformer, message)


def test_a_missing_shard_is_named(folder, tmp_path):
    model, processor = segzoo.load(folder)
    sharded = save_model_folder(model, processor, tmp_path / "sharded", max_shard_size=20_000)
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 2 and len((sharded / HASHES).read_text().splitlines()) == len(shards)
    segzoo.load(sharded)
    whole_shard = shards[1].read_bytes()
    cut(shards[1])
    refused(sharded, shards[1].name)
    shards[1].write_bytes(whole_shard)
    flip(shards[2])
    refused(sharded, f"{shards[2].name} is damaged or was changed")
    shards[2].unlink()
    refused(sharded, shards[2].name)


def flip(path, position=-5):
    """Flip the lowest bit of a byte: a value changes a little."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_bit_flip_is_refused(folder):
    segzoo.load(folder)
    for position in (-5, -1000, -5000):
        flip(folder / WEIGHTS, position)
        refused(folder, f"{WEIGHTS} is damaged or was changed.*--no_verify")
        AutoModelForSemanticSegmentation.from_pretrained(folder)
        segzoo.load(folder, verify=False)
        flip(folder / WEIGHTS, position)
        segzoo.load(folder)


def test_the_commands_compare_hashes(folder, tmp_path, capfd):
    flip(folder / WEIGHTS)
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / "a.png")
    words = ["predict", tmp_path / "a.png", "--model", folder, "--device", "cpu", "--output"]
    assert main([*map(str, words), str(tmp_path / "one")]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and f"{WEIGHTS} is damaged" in said
    assert main([*map(str, words), str(tmp_path / "two"), "--no_verify"]) == 0


def test_a_folder_without_hashes_loads_with_one_line(folder, segformer, caplog):
    segzoo.load(folder)
    assert not caplog.records
    (folder / HASHES).unlink()
    for unknown in (folder, segformer):
        segzoo.load(unknown)
        assert [record.message.count("\n") for record in caplog.records] == [0] and HASHES in caplog.text
        caplog.clear()


def test_models_of_transformers_have_hashes_where_segzoo_saves_them(segformer, tmp_path, caplog):
    model, processor = segzoo.load(segformer)
    for size, count in (("5GB", 1), (10_000, 2)):
        saved = save_model_folder(model, processor, tmp_path / str(size), max_shard_size=size)
        lines = (saved / HASHES).read_text().splitlines()
        assert len(lines) == len(list(saved.glob("*.safetensors"))) >= count
        caplog.clear()
        segzoo.load(saved)
        assert not caplog.records
        damaged = max(saved.glob("*.safetensors"))
        flip(damaged)
        refused(saved, f"{damaged.name} is damaged or was changed")


def test_hashes_that_do_not_name_the_weights(folder):
    (folder / HASHES).write_text("")
    refused(folder, f"{HASHES} does not name {WEIGHTS}")
    segzoo.load(folder, verify=False)


def test_a_save_over_another_form_leaves_one_model(folder, segformer, tmp_path):
    """transformers leaves the whole file beside the parts, and readers would go on to load it."""
    model, processor = segzoo.load(folder)
    for size in (20_000, "5GB", 20_000):
        with torch.no_grad():
            model.decode_heads[0].classifier.bias.add_(1)
        model.save_pretrained(folder, max_shard_size=size)
        names = {path.name for path in folder.iterdir()}
        assert (WEIGHTS in names) == (size == "5GB") and (f"{WEIGHTS}.index.json" in names) == (size != "5GB")
        for loaded in (segzoo.load(folder).model, AutoModelForSemanticSegmentation.from_pretrained(folder)):
            assert torch.equal(loaded.decode_heads[0].classifier.bias, model.decode_heads[0].classifier.bias)
    old = save_model_folder(model, processor, tmp_path / "old")
    shutil.copy(old / WEIGHTS, folder)
    refused(folder, f"holds two sets of weights, {WEIGHTS} and those of {WEIGHTS}.index.json")


def test_sha256sum_reads_the_hashes(folder):
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert (folder / HASHES).read_text() == f"{digest}  {WEIGHTS}\n"
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", HASHES], cwd=folder, check=True, capture_output=True)


def test_saving_again_renews_the_hashes(folder):
    model, _ = segzoo.load(folder)
    old = (folder / HASHES).read_text()
    with torch.no_grad():
        model.decode_heads[0].classifier.bias.add_(1)
    model.save_pretrained(folder)
    assert (folder / HASHES).read_text() != old
    segzoo.load(folder)
    old = (folder / HASHES).read_text()
    flip(folder / WEIGHTS)
    model.config.save_pretrained(folder)
    assert (folder / HASHES).read_text() == old, "a config alone says nothing about weights"
    refused(folder, "is damaged or was changed")


def test_a_file_is_hashed_once(folder, monkeypatch):
    path, hashed = folder / WEIGHTS, []
    path.touch()
    actual = weight_hashes.sha256_of
    monkeypatch.setattr(weight_hashes, "sha256_of", lambda path: hashed.append(path) or actual(path))
    remembered_sha256(path)
    remembered_sha256(path)
    assert len(hashed) == 2, "it has just been written, and may change within the same tick of the clock"
    old = time.time() - 60
    os.utime(path, (old, old))
    digests = {remembered_sha256(path) for _ in range(3)}
    assert len(hashed) == 3 and digests == {actual(path)}
    flip(path)
    assert remembered_sha256(path) == actual(path) and len(hashed) == 4
    memory = next((folder.parent / "home").rglob("*.json"))
    for content in ("[]", "garbage", json.dumps({str(path): 3})):
        memory.write_text(content)
        assert remembered_sha256(path) == actual(path)
