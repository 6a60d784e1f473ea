"""The Triton kernels without a GPU: in Triton's interpreter, as packages, and as machine code."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from setuptools import find_packages
from support.versions import triton_interpreter

ROOT = Path(__file__).parents[2]
NAMES = ("dcnv3", "ms_deform_attn")
INTERPRETED = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

# Kernels from local folders against segzoo's operators in float64: output and gradients.
LOCAL_KERNELS = """
import json, sys
from pathlib import Path
import torch, kernels, segzoo.ops
random = torch.Generator().manual_seed(0)
new = lambda *shape: torch.randn(shape, generator=random)
cases = {
    "dcnv3": ([new(2, 6, 5, 24), new(2, 6, 5, 54), new(2, 6, 5, 27)], [], {"groups": 3, "softmax": True}),
    "ms_deform_attn": (
        [new(2, 26, 3, 8), new(2, 7, 3, 2, 4, 2).sigmoid(), new(2, 7, 3, 2, 4)], [[(5, 4), (2, 3)]], {}
    ),
}
found = {}
for name, (tensors, fixed, options) in cases.items():
    kernel = kernels.get_local_kernel(Path(sys.argv[1], name))
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    expected = getattr(segzoo.ops, name)(exact[0], *fixed, *exact[1:], **options)
    given = new(*expected.shape)
    gradients = torch.autograd.grad(expected, exact, given.double())
    output = getattr(kernel, name + "_forward")(tensors[0], *fixed, *tensors[1:], **options)
    results = getattr(kernel, name + "_backward")(given, tensors[0], *fixed, *tensors[1:], **options)
    pairs = zip((output, *results), (expected.detach(), *gradients), strict=True)
    errors = [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs]
    found[name] = {"file": kernel.__file__, "errors": errors}
print(json.dumps(found))
"""


def run(*command, **options):
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def run_suite(name, environment):
    """The tests that are published with a kernel."""
    environment = {**environment, "PYTHONPATH": str(ROOT / "kernels" / name / "torch-ext")}
    options = ("-o", "addopts=--import-mode=importlib", "-o", "pythonpath=", "-p", "no:cacheprovider", "-q")
    return run(sys.executable, "-m", "pytest", *options, ROOT / "kernels" / name / "tests", env=environment)


@triton_interpreter
@pytest.mark.parametrize("name", NAMES)
def test_equals_its_formula_in_the_interpreter(name):
    summary = run_suite(name, INTERPRETED).splitlines()[-1]
    assert int(summary.split(" passed")[0]) >= 15 and "skipped" not in summary


def test_load_as_local_kernels(tmp_path):
    run(sys.executable, ROOT / "kernels" / "build.py", "--output", tmp_path)
    found = json.loads(run(sys.executable, "-W", "ignore", "-c", LOCAL_KERNELS, tmp_path, env=INTERPRETED))
    assert set(found) == set(NAMES)
    for name, result in found.items():
        assert result["file"].startswith(str(tmp_path / name))
        assert len(result["errors"]) == 4 and max(result["errors"]) < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_follows_the_kernel_builder(name):
    Build = pytest.importorskip("kernels._rust", reason="the reader of build.toml came with kernels 0.17").Build

    folder = ROOT / "kernels" / name
    assert [str(backend).lower().rpartition(".")[2] for backend in Build.open(folder).general.backends] == ["cuda"]
    assert (folder / "flake.nix").is_file() and (folder / "README.md").read_text().startswith("---\n")
    assert not (ROOT / "kernels" / "__init__.py").exists()


def load_build():
    spec = importlib.util.spec_from_file_location("build_kernels", ROOT / "kernels" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copies_are_what_kernels_share():
    build = load_build()
    assert [source.name for source in build.sources()] == sorted(NAMES)
    for source in build.sources():
        files = build.shared_files(source)
        assert len(files) == len(list((ROOT / "kernels" / "shared").glob("*.*"))) == 4
        for path, text in files.items():
            assert path.read_text() == text, f"{path}: run python kernels/build.py --shared"


def test_copies_are_made_from_what_kernels_share(tmp_path):
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("build", "__pycache__"))
    changed = tmp_path / "kernels" / "shared" / "bilinear.py"
    changed.write_text(changed.read_text() + "# changed\n")
    (tmp_path / "kernels" / "dcnv3" / "flake.nix").unlink()
    written = run(sys.executable, tmp_path / "kernels" / "build.py", "--shared").split()
    copies = [tmp_path / "kernels" / name / "torch-ext" / name / "bilinear.py" for name in NAMES]
    assert set(map(Path, written)) == {*copies, tmp_path / "kernels" / "dcnv3" / "flake.nix"}
    assert all(copy.read_text() == changed.read_text() for copy in copies)
    assert "Flake for the dcnv3 kernel" in (tmp_path / "kernels" / "dcnv3" / "flake.nix").read_text()


def test_every_package_is_installed():
    """pyproject.toml lists the packages, because setuptools cannot find them in two places."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(
        [*find_packages(str(ROOT / "src")), *(f"segzoo._kernels.{name}" for name in NAMES)]
    )


def test_a_block_is_a_warp_whose_threads_hold_a_vector_each():
    from segzoo._kernels.dcnv3.bilinear import block_shape, vector

    assert block_shape(16, vector(torch.float32, False, (9, 0))) == (8, 1)
    assert block_shape(16, vector(torch.bfloat16, False, (8, 0))) == (16, 1)
    assert block_shape(12, 4) == block_shape(16, 4)
    assert block_shape(512, 4) == (1, 4)
    assert block_shape(4096, 4) == (1, 8)
    assert vector(torch.float32, True, (9, 0)) == 4
    assert vector(torch.float32, True, (8, 9)) == vector(torch.float64, True, (9, 0)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pairs_lie_where_they_can_be_loaded_at_once(dtype):
    """A GPU refuses to load two numbers from between two pairs; the interpreter does not mind."""
    from segzoo._kernels.dcnv3.bilinear import aligned

    numbers = torch.arange(9, dtype=dtype)
    assert numbers[1:].data_ptr() % (2 * numbers.itemsize)
    moved = aligned(numbers[1:])
    assert moved.data_ptr() % (2 * numbers.itemsize) == 0 and torch.equal(moved, numbers[1:])
    assert aligned(numbers).data_ptr() == numbers.data_ptr()


@pytest.mark.parametrize("name", NAMES)
def test_refuses_tensors_that_are_not_on_a_gpu(name):
    import segzoo._kernels.dcnv3 as dcnv3
    import segzoo._kernels.ms_deform_attn as attention

    with pytest.raises(ValueError, match="needs tensors on a GPU"):
        if name == "dcnv3":
            dcnv3.dcnv3_forward(torch.zeros(1, 3, 3, 4), torch.zeros(1, 3, 3, 18), torch.zeros(1, 3, 3, 9), groups=1)
        else:
            locations, weights = torch.zeros(1, 2, 1, 1, 4, 2), torch.zeros(1, 2, 1, 1, 4)
            attention.ms_deform_attn_forward(torch.zeros(1, 4, 1, 4), [(2, 2)], locations, weights)


def machine_code(tmp_path, *arguments):
    """Records of benchmarks/kernel_code.py, compiled here and not taken from Triton's cache."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = ROOT / "benchmarks" / "kernel_code.py"
    return json.loads(run(sys.executable, "-W", "ignore", script, *arguments, "--json", env=environment))


def test_forward_moves_16_bytes_and_never_waits(tmp_path):
    arguments = ("--kernels", "dcnv3", "--passes", "forward", "--capabilities", "90", "--dtypes", "bfloat16")
    (code,) = machine_code(tmp_path, *arguments)
    # 9 points, 4 corners; besides them offsets by pairs and weights
    assert code["vector_loads"] == 36 and code["loads"] == 36 + 9 + 9
    assert code["barriers"] == 0 and code["stack"] == 0
    # 1110, of which a tenth is not of the points; 1360 with bfloat16 as the compiler takes it apart, and bounds apart
    assert code["instructions"] < 1200


@pytest.mark.slow
def test_machine_code_of_every_kernel(tmp_path):
    codes = machine_code(tmp_path, "--dtypes", "float32", "bfloat16")
    assert len(codes) == 16
    for code in codes:
        corners = 36 if code["kernel"] == "dcnv3" else 48
        assert code["stack"] == 0, code
        if code["direction"] == "forward":
            assert code["vector_loads"] == corners and code["atomics"] == code["barriers"] == 0, code
        else:
            assert code["atomics"] == corners, code
            assert code["vector_atomics"] == (corners if code["capability"] == 90 else 0), code
            assert code["barriers"] <= 24, code  # to lay the results out, not in the loop over points


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_equals_its_formula_on_a_gpu(name):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    assert "skipped" not in run_suite(name, environment).splitlines()[-1]


def dcnv3_case(dtype):
    from segzoo.ops import dcnv3

    random = torch.Generator().manual_seed(0)
    shapes = ((3, 40, 52, 96), (3, 40, 52, 6 * 18), (3, 40, 52, 6 * 9))
    tensors = [torch.randn(shape, generator=random) for shape in shapes]
    tensors[0] = tensors[0].to(dtype)
    # Odd eighths of a pixel: no sample lies so near a pixel that rounding decides between two gradients.
    tensors[1] = ((4 * tensors[1]).round() * 2 + 1) / 8
    return lambda *tensors: dcnv3(*tensors, groups=6, softmax=True), tensors


def attention_case(dtype):
    from segzoo.ops import ms_deform_attn

    random = torch.Generator().manual_seed(0)
    shapes = [(40, 52), (20, 26), (10, 13)]
    tensors = [
        torch.randn(2, sum(height * width for height, width in shapes), 8, 32, generator=random).to(dtype),
        torch.rand(2, 300, 8, 3, 4, 2, generator=random) * 1.4 - 0.2,
        torch.randn(2, 300, 8, 3, 4, generator=random).softmax(-1),
    ]
    return lambda value, *sampling: ms_deform_attn(value, shapes, *sampling), tensors


CASES = {"dcnv3": dcnv3_case, "ms_deform_attn": attention_case}


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_operator_on_a_gpu_equals_float64_on_the_cpu(name, dtype, compiled):
    operator, tensors = CASES[name](dtype)
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    expected = operator(*exact)
    given = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = torch.autograd.grad(expected, exact, given.double())
    tensors = [tensor.cuda().requires_grad_() for tensor in tensors]
    output = (torch.compile(operator) if compiled else operator)(*tensors)
    results = torch.autograd.grad(output, tensors, given.cuda())
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for result, reference in zip((output, *results), (expected, *gradients), strict=True):
        error = (result.double().cpu() - reference).abs().max() / reference.abs().max()
        assert error < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_operator_is_captured_in_a_cuda_graph(name):
    operator, tensors = CASES[name](torch.float32)
    tensors = [tensor.cuda() for tensor in tensors]
    expected = operator(*tensors)  # also compiles, which a capture cannot
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = operator(*tensors)
    tensors[0].mul_(2)
    graph.replay()
    torch.testing.assert_close(output, 2 * expected)
