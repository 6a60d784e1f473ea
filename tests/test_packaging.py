"""The wheel works outside the source tree, so does the editable install, and importing segzoo stays fast."""

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
configs = [segzoo.zoo.original_config(name) for name in segzoo.zoo.rows()]
assert sum(config is None for config in configs) == 6  # backbones alone, and a row without weights
assert DATASETS["ade20k"].num_labels == 150
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


def build_wheel(source, folder):
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source)
    (wheel,) = folder.glob("segzoo-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})", cwd=tree)
    (archive,) = folder.glob("segzoo-*.tar.gz")
    return archive


def package_files():
    """Every file that the package must have, by its path in the wheel."""
    homes = {ROOT / "src" / "segzoo": "segzoo"}
    homes |= {path: f"segzoo/_kernels/{path.name}" for path in ROOT.glob("kernels/*/torch-ext/*") if path.is_dir()}
    return {
        f"{name}/{path.relative_to(home).as_posix()}"
        for home, name in homes.items()
        for path in home.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_what_the_package_has(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == package_files()
    assert {
        "segzoo/py.typed",
        "segzoo/zoo/rows/mmsegmentation.json",
        "segzoo/data/facts/ade20k.json",
        "segzoo/training/recipes/recipes.json",
        "segzoo/_kernels/dcnv3/layers.py",
    } <= names


def test_the_sdist_holds_what_the_wheel_is_built_from(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/segzoo/zoo/rows/mmsegmentation.json"} <= names
    again = build_wheel(sdist, tmp_path)
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for texts in (project["dependencies"], *extras) for text in texts]


# Extras that the suite uses where they are installed, and those of benchmarks.
NOT_IN_TESTS = ("torchao", "bitsandbytes", "optimum-quanto", "openvino", "gradio", "mkdocs-material", "mkdocstrings")


def test_the_lowest_versions_are_those_of_pyproject():
    """`make test-lowest` lets uv choose the lower bound of each requirement, so each has one, and this environment keeps it."""
    bounded = [requirement for requirement in requirements() if not requirement.extras]
    assert len(bounded) > 20
    for requirement in bounded:
        assert any(specifier.operator in (">=", "==") for specifier in requirement.specifier), str(requirement)
        if requirement.name not in ("ruff", *NOT_IN_TESTS):
            assert requirement.specifier.contains(version(requirement.name), prereleases=True), str(requirement)
    commands = run("make", "--dry-run", "--always-make", "test-lowest", cwd=ROOT).replace("\\\n", " ")
    (install,) = (line for line in commands.splitlines() if "--resolution" in line)
    assert re.search(r"uv pip install .*--resolution lowest-direct .*\.\[test\]", install)


@pytest.fixture(scope="module")
def imported():
    """The modules that importing segzoo adds to those of torch and transformers, without the kernels library."""
    program = """
import sys
sys.modules["kernels"] = None
import torch, torchvision, transformers.image_processing_backends, transformers.modeling_utils
before = set(sys.modules)
import segzoo
print(*(sys.modules.keys() - before))
import segzoo.ops, segzoo.modeling_segzoo
"""
    return run(sys.executable, "-c", program).split()


def test_installing_needs_no_kernels_library(imported):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not any(Requirement(text).name == "kernels" for text in project["dependencies"])
    assert "segzoo" in imported


@pytest.mark.slow
def test_every_module_and_the_quickstart_work_from_the_wheel(wheel, environment, tmp_path):
    pip(environment, "--ignore-installed", wheel)
    modules = [name.removesuffix(".py").replace("/", ".") for name in package_files() if name.endswith(".py")]
    modules = sorted({name.removesuffix(".__init__") for name in modules} - {"segzoo.__main__"})
    if importlib.util.find_spec("triton") is None:
        modules = [name for name in modules if not name.startswith("segzoo._kernels.")]
    script = tmp_path / "imports.py"
    script.write_text(f"import importlib\nfor name in {modules}:\n    importlib.import_module(name)\n")
    run(environment, script, cwd=tmp_path)
    shutil.copy(ROOT / "examples" / "quickstart.py", tmp_path)
    sizes = ("--steps", "1", "--num_train", "8", "--num_validation", "2")
    run(environment, "quickstart.py", "--output_dir", "out", *sizes, cwd=tmp_path)
    assert {"config.json", "model.safetensors", "README.md"} <= {
        path.name for path in (tmp_path / "out/model").iterdir()
    }


def test_wheel_works_outside_the_tree(wheel, environment, tmp_path):
    pip(environment, "--ignore-installed", wheel)
    scenes = (
        "from segzoo.data import write_scenes; write_scenes('scenes', num_train=4, num_validation=2, size=(32, 48))"
    )
    run(environment, "-c", SMOKE + scenes, str(tmp_path / "venv"), cwd=tmp_path)
    segzoo = environment.parent / "segzoo"
    assert "usage: segzoo" in run(segzoo, "--help", cwd=tmp_path)
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


@pytest.mark.slow  # whoever runs the tests has made one
def test_editable_install(tree, environment, tmp_path):
    pip(environment, "--ignore-installed", "-e", tree)
    run(environment, "-c", SMOKE, str(tree), cwd=tmp_path)
    assert run(environment, "-m", "segzoo", "--help") == run(environment.parent / "segzoo", "--help")


def test_import_is_light(imported):
    """Nothing that only training, evaluation or plots need is imported with the package."""
    heavy = ("datasets", "evaluate", "matplotlib", "timm", "accelerate", "scipy", "peft", "pandas")
    added = {name.partition(".")[0] for name in imported}
    assert "segzoo" in added
    assert not added & set(heavy), added & set(heavy)
