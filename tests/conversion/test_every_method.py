"""One file of every method of the zoo, as the original writes it, through ``segzoo convert`` and a pipeline of transformers.

The keys and shapes are those of the released checkpoint with the fewest weights; of methods whose smallest is huge, a narrow model's.
"""

import math

import numpy as np
import pytest
import torch
from conversion import tiny
from conversion.mutations.case import altered
from parity import synthesis
from PIL import Image
from support.key_lists import hashes, key_list
from transformers import pipeline

from segzoo import zoo
from segzoo.commands.cli import main

# Largest sides of the picture that the model sees. LR-ASPP pools windows of 385 pixels, and InternViT takes windows of 504.
SCALE, SCALES = (256, 192), {"LRASPP": (600, 400), "Linear": (2016, 504)}
INTERNVIT = {"backbone.embed_dim": 64, "backbone.depth": 48, "backbone.num_heads": 4}
NARROW = {
    ("InternImage", "Mask2Former"): {
        "backbone.channels": 32,
        "backbone.groups": [1, 2, 4, 8],
        "backbone.depths": [1, 1, 2, 1],
        "backbone.level2_post_norm_block_ids": [1],
        "decode_head.in_channels": [32, 64, 128, 256],
    },
    ("ViT-Adapter", "Mask2Former"): {
        "backbone.embed_dim": 64,
        "backbone.num_heads": 4,
        "backbone.deform_num_heads": 4,
        "decode_head.in_channels": [64] * 4,
    },
    ("InternViT-6B", "Linear"): INTERNVIT | {"decode_head.in_channels": 64, "decode_head.channels": 64},
    ("InternViT-6B", "UPerNet"): INTERNVIT | {"decode_head.in_channels": [64] * 4, "auxiliary_head.in_channels": 64},
}


def count(name):
    """Number of weights of a released checkpoint."""
    return sum(math.prod(map(int, line.split(" ")[1].split("x"))) for line in key_list(name) if line.split(" ")[1])


def methods():
    """(system, method) -> the names of its rows."""
    found = {}
    for name, row in zoo.rows().items():
        if name in hashes() and key_list(name) and zoo.converts(row) and not row.pretrained:
            found.setdefault((row.system, row.method), []).append(name)
    return found


def python_text(value):
    """A value as mmcv prints it into a checkpoint."""
    if isinstance(value, dict) and all(isinstance(key, str) and key.isidentifier() for key in value):
        return "dict(" + ", ".join(f"{key}={python_text(one)}" for key, one in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_text, value)) + "]"
    return repr(value)


def written(method, name, folder):
    """The file or files of a method in a folder, and the options with which they are converted."""
    if method[0] == "CSAIL":
        state = synthesis.state_dict(key_list(name))
        for part in ("encoder", "decoder"):
            own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            torch.save(own, folder / f"{part}_epoch_20.pth")
        return [folder / "encoder_epoch_20.pth", folder / "decoder_epoch_20.pth"], ["--name", name]
    config = zoo.original_config(name)
    for step in config["test_pipeline"]:
        if "img_scale" in step:
            step["img_scale"] = SCALES.get(method[1], SCALE)
    if method in NARROW:
        config = altered(config, NARROW[method])
        state = tiny.state_dict(config)
    else:
        state = synthesis.state_dict(key_list(name))
        if method[1] == "ANN":  # one convolution under two names
            place = "decode_head.context.stages.0"
            state = {k: state[k.replace(f"{place}.query_project", f"{place}.key_project")] for k in state}
    config["data"] = {
        "samples_per_gpu": 2,
        "test": {"type": config["dataset_type"], "pipeline": config["test_pipeline"]},
    }
    text = "".join(f"{key} = {python_text(value)}\n" for key, value in config.items())
    meta = {"config": text + "gpu_ids = range(0, 8)\n", "mmseg_version": "0.27.0", "epoch": 1, "iter": 160000}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    files = [folder / "iter_160000.pth"]
    if zoo.rows()[name].decoder_url is not None:  # the backbone has a file of its own, of weights alone
        files.insert(0, folder / "backbone.pth")
        torch.save({key: value for key, value in state.items() if not key.startswith("decode_head.")}, files[0])
        state = {key: value for key, value in state.items() if key.startswith("decode_head.")}
    torch.save({"meta": meta, "state_dict": state, "optimizer": optimizer}, files[-1])
    return files, []


@pytest.mark.slow
@pytest.mark.parametrize("method", methods(), ids="-".join)
def test_a_file_becomes_a_model_that_segments(method, tmp_path):
    files, options = written(method, min(methods()[method], key=count), tmp_path)
    assert main(["convert", *map(str, files), "--output", str(tmp_path / "model"), *options]) == 0
    for file in files:
        file.unlink()
    pixels = np.random.default_rng(3).integers(0, 256, (81, 121, 3), dtype=np.uint8)
    segment = pipeline("image-segmentation", model=str(tmp_path / "model"))
    found = segment(Image.fromarray(pixels))
    assert found and {one["label"] for one in found} <= set(segment.model.config.id2label.values())
    masks = np.stack([np.array(one["mask"]) > 0 for one in found])
    assert masks.shape[1:] == (81, 121) and (masks.sum(0) == 1).all()
