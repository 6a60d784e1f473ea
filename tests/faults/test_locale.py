"""Under the locale C, where Python takes file names and the terminal for ASCII, every command works all the same."""

import json
import os
import subprocess
import sys

import pytest
from support.odd_names import copy_with_odd_names

PROGRAM = """
import sys
import torch
from segzoo.commands import cli
assert sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode
torch.set_num_threads(1)
data, model, picture, out = sys.argv[1:]
tiny = ["--max_train_steps", "1", "--crop_size", "32", "--per_device_train_batch_size", "4"]
for words in (
    ["data", "check", data, "--num_workers", "0", "--json", f"{out}/check.json"],
    ["predict", picture, "--model", model, "--output", f"{out}/predict"],
    ["evaluate", model, data, "--split", "validation", "--num_workers", "0", "--output", f"{out}/evaluate"],
    ["train", "--dataset_name", data, "--model_name_or_path", model, "--output_dir", f"{out}/train", *tiny],
    ["info", f"{out}/train"],
    ["list"],
):
    print(words[0], cli.main(words), file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the locale C is as on Linux")
@pytest.mark.slow
def test_every_command(scenes, tiny, tmp_path):
    data = copy_with_odd_names(scenes, tmp_path / "道路", ("道路é".encode(), b"a\xe9"))
    picture = data / "images" / "validation" / "道路é.jpg"
    (out := tmp_path / "out é").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *map(str, (data, tiny, picture, out))]
    done = subprocess.run(command, capture_output=True, timeout=240, env=environment)
    printed = done.stderr.decode("ascii")  # also: nothing else is printed
    for name in ("data", "predict", "evaluate", "train", "info", "list"):
        assert f"{name} 0\n" in printed, printed
    assert done.returncode == 0
    assert json.loads((out / "check.json").read_text("utf-8"))["classes"][0]["name"] == "道路"
    assert (out / "predict" / "道路é.png").is_file()
    assert "eval_iou_道路" in json.loads((out / "train" / "all_results.json").read_text("utf-8"))
    assert "道路" in (out / "train" / "report.html").read_text("utf-8")
