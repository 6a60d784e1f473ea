"""The wheel works outside the source tree, so does the editable install, and importing segzoo stays fast."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMOKE = """
import os, sys, segzoo, torch
from transformers import AutoConfig, AutoModelForSemanticSegmentation
assert segzoo.__file__.startswith(sys.argv[1]), segzoo.__file__
config = segzoo.SegZooConfig.tiny()
model = AutoModelForSemanticSegmentation.from_config(config).eval()
assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 5, 16, 16)
import segzoo.zoo
from segzoo.metrics import mean_iou_path
from segzoo.data import DATASETS
assert all(segzoo.zoo.original_config(name) for name in segzoo.zoo.rows()) and DATASETS["ade20k"].num_labels == 150
assert len(segzoo.zoo.rows()) > 100 and os.path.exists(mean_iou_path() + "/mean_iou.py")
"""


def run(*command, cwd=None):
    # What is installed is tested, not what the path of this process names.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what the package is built from, so that building leaves nothing in the working tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("src", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return copy


@pytest.fixture
def environment(tmp_path):
    """An empty virtual environment that sees the dependencies installed here, but not segzoo."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    dependencies = {sysconfig.get_paths()["purelib"], *site.getsitepackages()}
    Path(purelib, "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return python


def pip(python, *arguments):
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        *arguments,
    )


def test_wheel_works_outside_the_tree(tree, environment, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, tree)
    (wheel,) = tmp_path.glob("segzoo-*.whl")
    pip(environment, "--ignore-installed", wheel)
    run(environment, "-c", SMOKE, str(tmp_path / "venv"), cwd=tmp_path)
    segzoo = environment.parent / "segzoo"
    assert "usage: segzoo" in run(segzoo, "--help", cwd=tmp_path)
    scenes = (
        "from segzoo.data import write_scenes; write_scenes('scenes', num_train=4, num_validation=2, size=(32, 48))"
    )
    run(environment, "-c", scenes, cwd=tmp_path)
    run(
        *(
            segzoo,
            "train",
            "--dataset_name",
            "scenes",
            "--backbone",
            "mobilenetv2",
            "--random_backbone",
            "--head",
            "fcn",
            "--head_channels",
            "8",
        ),
        *("--crop_size", "32", "--max_train_steps", "1", "--per_device_train_batch_size", "2", "--eval_steps", "0"),
        *("--dataloader_num_workers", "0", "--output_dir", "trained", "--use_cpu", "true"),
        cwd=tmp_path,
    )
    assert {"config.json", "model.safetensors", "README.md"} <= {
        path.name for path in (tmp_path / "trained").iterdir()
    }


def test_editable_install(tree, environment, tmp_path):
    pip(environment, "--ignore-installed", "-e", tree)
    run(environment, "-c", SMOKE, str(tree), cwd=tmp_path)
    assert run(environment, "-m", "segzoo", "--help") == run(environment.parent / "segzoo", "--help")


def test_import_is_light():
    """Nothing that only training, evaluation or plots need is imported with the package."""
    heavy = ("datasets", "evaluate", "matplotlib", "timm", "accelerate", "scipy", "peft", "pandas")
    before, after = (
        set(
            run(
                sys.executable,
                "-c",
                f"import sys, torch, torchvision, transformers.image_processing_backends, {name}; print(*sys.modules)",
            ).split()
        )
        for name in ("transformers.modeling_utils", "segzoo")
    )
    added = {name.partition(".")[0] for name in after - before}
    assert not added & set(heavy), added & set(heavy)
