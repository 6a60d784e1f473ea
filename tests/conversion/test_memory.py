"""Peak memory of converting and loading a large checkpoint, measured in a separate process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conversion import tiny
from support.key_lists import key_list

from segzoo import zoo
from segzoo.backbones import InternViTBackbone, InternViTConfig
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.rules.internvit import internvit_keys

MEASURE = r"""
import json, os, re, sys
from pathlib import Path

import torch
from transformers import AutoModelForSemanticSegmentation

import segzoo
from segzoo.conversion.convert import convert_checkpoint


def resident(name):
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def touched(model):
    return sum(float(p.detach().reshape(-1)[::1024].sum()) for p in model.parameters())


small, large, folder = map(Path, sys.argv[1:4])
steps = {
    "convert": lambda path, out: convert_checkpoint(path, output=out, max_shard_size=sys.argv[4]),
    "load": lambda path, out: touched(AutoModelForSemanticSegmentation.from_pretrained(out)),
}
peaks = {}
for name, step in steps.items():
    step(small, folder / "small")  # what is imported and set up once does not grow with the file
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    start = resident("VmRSS")
    step(large, folder / "large")
    peaks[name] = resident("VmHWM") - start
print(json.dumps(peaks))
"""


def measured(small, large, folder, shards):
    """The memory that a process needs at most, in bytes, mapped files included, for each step of `MEASURE` on a file."""
    command = [sys.executable, "-c", MEASURE, *map(str, (small, large, folder)), shards]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak can be reset on Linux only")
def test_no_second_copy(tmp_path):
    """A checkpoint of some hundred MB in float32: 1.3 times its size at most, for converting it and for loading the result."""
    values = tiny.config(model__backbone__base_channels=128, model__decode_head__in_channels=1024)
    small = tiny.save(tmp_path / "small.pth")
    large = tiny.save(tmp_path / "large.pth", values, state=tiny.state_dict(values))
    size = large.stat().st_size
    assert size > 150e6
    peaks = measured(small, large, tmp_path, "50MB")
    assert peaks["convert"] < 1.3 * size and peaks["load"] < 1.3 * size, (peaks, size)
    shards = list(Path(tmp_path / "large").glob("*.safetensors"))
    assert len(shards) > 1 and all(path.stat().st_size < 60e6 for path in shards)
    # The measure sees a copy: holding the weights once more would have shown.
    assert sum(t.nbytes for t in torch.load(large, mmap=True)["state_dict"].values()) > 0.9 * size


LARGEST = ("segmenter_vit-l_mask_8x1_640x640_160k_ade20k", "knet_s3_upernet_swin-l_8x2_640x640_adamw_80k_ade20k")


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak can be reset on Linux only")
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_models_at_their_size(name, tmp_path):
    """Files of more than a GB, of zeros, into one shard: 1.3 times their size at most."""
    small, large = tiny.save(tmp_path / "small.pth"), tmp_path / "large.pth"
    state = {}
    for line in key_list(name):
        key, shape, dtype = line.split(" ")
        state[key] = torch.zeros([int(side) for side in shape.split("x") if side], dtype=getattr(torch, dtype))
    tiny.save(large, zoo.original_config(name), state=state, CLASSES=None)
    size = large.stat().st_size
    assert size > 0.9e9
    del state
    peaks = measured(small, large, tmp_path, "5GB")
    shutil.rmtree(tmp_path / "large")
    large.unlink()
    shown = ", ".join(f"{step} {peak / size:.2f}" for step, peak in peaks.items())
    print(f"{name}: {size / 1e9:.2f} GB; memory as a part of it: {shown}")
    assert all(peak < 1.3 * size for peak in peaks.values()), shown


MEASURE_SHARDED = r"""
import json, re, sys, threading, time
from pathlib import Path

import torch

from segzoo.conversion.convert import convert_checkpoint


def own():  # what is not a page of a mapped file
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])


small, large, folder = map(Path, sys.argv[1:])
convert_checkpoint(small, output=folder / "small")
start, peak, done = own(), 0, threading.Event()


def watch():
    global peak
    while not done.is_set():
        peak = max(peak, own())
        time.sleep(0.002)


watcher = threading.Thread(target=watch)
watcher.start()
convert_checkpoint(large, output=folder / "large", max_shard_size=200_000_000)
done.set()
watcher.join()
peak -= start
start = own()
copy = torch.ones(25_000_000)
print(json.dumps([peak, own() - start]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is told by kind on Linux only")
def test_a_large_file_is_converted_shard_by_shard(tmp_path):
    """InternViT-6B's width in bfloat16, 2 GB: less than 300 MB beside the mapped file."""

    def saved(name, depth, width):
        config = InternViTConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 128, image_size=56
        )
        with torch.device("meta"):
            native = InternViTBackbone(config).state_dict()
        table = KeyTable(internvit_keys())
        state = {table.to_original(key): torch.full(x.shape, 0.5, dtype=torch.bfloat16) for key, x in native.items()}
        torch.save(state, tmp_path / name)
        return tmp_path / name

    small, large = saved("small.pth", 1, 128), saved("large.pth", 8, 3200)
    size = large.stat().st_size
    assert size > 1.9e9
    command = [sys.executable, "-c", MEASURE_SHARDED, str(small), str(large), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    beside, seen = json.loads(done.stdout.splitlines()[-1])
    print(f"{beside / 1e6:.0f} MB beside the mapped {size / 1e6:.0f} MB")
    assert beside < 300e6
    assert seen > 90e6, "the measure sees a tensor of 100 MB"
    shards = list((tmp_path / "large").glob("*.safetensors"))
    assert len(shards) >= size / 200e6 and all(path.stat().st_size <= 201e6 for path in shards)
