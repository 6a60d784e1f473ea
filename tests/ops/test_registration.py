import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from segzoo.ops import fusing, registration

NAMES = ("dcnv3", "ms_deform_attn")
CPU = torch.device("cpu")


def launching(name, monkeypatch, launch):
    """A kernel package with this forward launch function, in the place of the installed one."""
    package = ModuleType(f"segzoo._kernels.{name}")
    setattr(package, f"{name}_forward", launch)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return package


def kernels_of(name, **options):
    return registration.gpu_kernels(name, CPU, sys.modules[f"segzoo.ops.{name}"]._trial, **options)


@pytest.fixture(autouse=True)
def undecided():
    for cached in (registration._working_kernels, fusing.warn_once):
        cached.cache_clear()
    yield
    for cached in (registration._working_kernels, fusing.warn_once):
        cached.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_c_compiler_pytorch_runs_after_one_warning(name, monkeypatch):
    launches = []

    def launch(*tensors, **options):
        launches.append(tensors)
        raise RuntimeError("Failed to find C compiler.\nPlease specify it")

    launching(name, monkeypatch, launch)
    with pytest.warns(UserWarning, match="segzoo: .* GPU kernels") as caught:
        assert kernels_of(name) is None
        assert kernels_of(name) is None and kernels_of(name, backward=True) is None
    (message,) = (str(w.message) for w in caught)
    assert len(launches) == 1 and "(Failed to find C compiler.)" in message and "gcc" in message and "CC" in message


@pytest.mark.parametrize("name", NAMES)
def test_kernels_that_launch_are_tried_once(name, monkeypatch):
    launches = []
    package = launching(name, monkeypatch, lambda *tensors, **options: launches.append(tensors))
    assert kernels_of(name) is kernels_of(name, backward=True) is package
    (tensors,) = launches
    assert all(t.dtype == torch.float32 and t.device == CPU for t in tensors if isinstance(t, torch.Tensor))


def test_too_little_memory_decides_nothing(monkeypatch):
    failures = [torch.OutOfMemoryError("out of memory")]

    def launch(*tensors, **options):
        if failures:
            raise failures.pop()

    package = launching("dcnv3", monkeypatch, launch)
    with pytest.raises(torch.OutOfMemoryError):
        kernels_of("dcnv3")
    assert kernels_of("dcnv3") is package


INTERPRETED = """
import sys, warnings, torch
from segzoo.ops import registration
warnings.simplefilter("error")
for name in ("dcnv3", "ms_deform_attn"):
    assert registration.gpu_kernels(name, torch.device("cpu"), sys.modules[f"segzoo.ops.{name}"]._trial)
"""


def test_the_trials_fit_the_kernels():
    """In Triton's interpreter, which needs no GPU."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
