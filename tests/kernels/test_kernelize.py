"""The `kernels` library puts kernels of a local repository in the place of the operators' layers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.contract import settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import InternImageConfig
from segzoo.errors import SegZooError
from segzoo.heads import Mask2FormerHeadConfig
from segzoo.ops import DCNv3, MSDeformAttn, kernel_mapping

ROOT = Path(__file__).parents[2]
LAYERS = {DCNv3: "DCNv3", MSDeformAttn: "MSDeformAttn"}
IMAGES = torch.sin(torch.arange(3 * 32 * 32, dtype=torch.float32) * 0.37).view(1, 3, 32, 32)

# Triton's interpreter stands for a GPU, so that kernels mapped to "cpu" run.
INTERPRETED = """
import inspect, json, sys
import kernels, torch
from segzoo import SegZooForSemanticSegmentation
from segzoo.ops import kernel_mapping
kind, model_folder, built, images = sys.argv[1:4] + [torch.load(sys.argv[4])]
mapping = kernel_mapping(built, device="cpu")
if kind == "kernelize":
    model = SegZooForSemanticSegmentation.from_pretrained(model_folder)
    with kernels.use_kernel_mapping(mapping):
        kernels.kernelize(model, mode=kernels.Mode.TRAINING)
else:
    kernels.register_kernel_mapping(mapping)
    model = SegZooForSemanticSegmentation.from_pretrained(model_folder, use_kernels=True)
layers = [m for m in model.modules() if hasattr(type(m), "kernel_layer_name")]
files = sorted({inspect.getsourcefile(layer.forward) for layer in layers})
logits = model(images).logits
logits.square().mean().backward()
gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
torch.save({"files": files, "logits": logits.detach(), "gradients": gradients}, "found.pt")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Kernel repositories as `kernels/build.py` writes them."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, ROOT / "kernels" / "build.py", "--output", folder]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SegZooConfig(
        backbone_config=InternImageConfig(channels=8, depths=[1] * 4, groups=[1, 2, 2, 4]),
        decode_head_configs=[Mask2FormerHeadConfig.tiny()],
    )
    # Points that lie on whole pixels, as those of a fresh model do, have two gradients.
    return settle(SegZooForSemanticSegmentation(config)).eval()


def kernelized(model):
    return [module for module in model.modules() if type(module) in LAYERS]


def test_both_operators_are_layers_of_the_model(model):
    assert {type(module) for module in kernelized(model)} == set(LAYERS)
    assert all(module.kernel_layer_name == LAYERS[type(module)] for module in kernelized(model))
    assert not any(list(module.parameters()) for module in kernelized(model))


def use_kernels_is_accepted():
    from transformers.utils import is_kernels_available

    return is_kernels_available()


@pytest.mark.parametrize("kind", ["kernelize", "use_kernels"])
def test_kernels_of_a_local_repository_give_the_same_numbers(kind, model, built, tmp_path):
    pytest.importorskip("triton")
    kernels = pytest.importorskip("kernels")
    if kind == "use_kernels" and not use_kernels_is_accepted():
        pytest.skip(f"the installed transformers does not accept kernels {kernels.__version__}")
    model.save_pretrained(tmp_path / "model")
    torch.save(IMAGES, tmp_path / "images.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, kind, "model", str(built), "images.pt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    folders = ("dcnv3", "ms_deform_attn")
    assert [Path(file).name for file in found["files"]] == ["layers.py"] * 2
    assert all(str(built / folder) in file for folder, file in zip(folders, found["files"], strict=True))
    model.zero_grad()
    logits = model(IMAGES).logits
    logits.square().mean().backward()
    torch.testing.assert_close(found["logits"], logits.detach(), rtol=1e-4, atol=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found["gradients"].keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found["gradients"][name] - gradient).abs().max()
        assert error <= 1e-3 * max(gradient.abs().max(), 1e-3), name


def test_models_on_cpus_keep_their_operators(model, built):
    kernels = pytest.importorskip("kernels")
    with torch.no_grad():
        expected = model(IMAGES).logits
        with kernels.use_kernel_mapping(kernel_mapping(built)):
            kernels.kernelize(model, mode=kernels.Mode.INFERENCE)
        assert torch.equal(model(IMAGES).logits, expected)
    assert all(module.forward.__func__ is type(module).forward for module in kernelized(model))


def test_what_is_missing_is_named(built, tmp_path, monkeypatch):
    pytest.importorskip("kernels")
    assert sorted(kernel_mapping(built)) == ["DCNv3", "MSDeformAttn"]
    with pytest.raises(SegZooError, match="dcnv3 has no kernel; .*build.py --output"):
        kernel_mapping(tmp_path)
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(SegZooError, match=r'pip install "segzoo\[kernels\]"'):
        kernel_mapping(built)
