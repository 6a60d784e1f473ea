"""Every form of an operator gives the same numbers: eager, compiled, exported, and on a GPU."""

import os
import sys
import warnings

import pytest
import torch
from support.forked import run_python
from torch.autograd import forward_ad

from segzoo.errors import SegZooError
from segzoo.ops import dcnv3, ms_deform_attn

SHAPES = ((5, 9), (3, 4))
# All with rows of 3 numbers and most with 8 points, so that they share compiled steps.
OPTIONS = {
    "stride, dilation and scale": {
        "stride": 2,
        "dilation": 2,
        "padding": 2,
        "offset_scale": 1.5,
        "remove_center": True,
    },
    "softmax": {"softmax": True, "remove_center": True},
    "nine points": {"softmax": True},
}
FORMS_AND_CASES = [
    *(("exported", name) for name in (*OPTIONS, "attention")),
    *(("compiled", name) for name in ("stride, dilation and scale", "softmax", "attention")),
    pytest.param("compiled", "nine points", marks=pytest.mark.slow),
]


class Sampling(torch.nn.Module):
    """One of the operators as a layer, its tensors as parameters."""

    def __init__(self, name, dtype=torch.float64, side=7):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.options = OPTIONS.get(name)
        if self.options:
            points = 9 - self.options.get("remove_center", False)
            rows, columns = ((n - 1) // self.options.get("stride", 1) + 1 for n in (7, side))
            positions, weights = draw(2, rows, columns, 2 * points * 2) * 2, draw(2, rows, columns, 2 * points)
            tensors = draw(2, 7, side, 6), positions, weights
        else:
            tensors = draw(2, 57, 2, 3), 0.5 + 0.4 * draw(2, side, 2, 2, 4, 2), draw(2, side, 2, 2, 4)
        for place, number in enumerate((float("nan"), float("inf"), -1e30, 4e9, 1e4)):
            tensors[1].view(-1)[7 * place] = number
        self.tensors = torch.nn.ParameterList(tensor.to(dtype) for tensor in tensors)

    def forward(self, factor):
        sampled, positions, weights = (
            self.tensors[0],
            self.tensors[1],
            self.tensors[2],
        )  # torch 2.8 cannot unpack a list
        if self.options:
            return dcnv3(sampled * factor, positions, weights, groups=2, **self.options)
        return ms_deform_attn(sampled * factor, SHAPES, positions, weights)


def numbers(run, module):
    output = run(torch.ones((), dtype=module.tensors[0].dtype))
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), list(module.tensors))]


def assert_same(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and bool(torch.isfinite(a).all())
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def compiled(module):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def exported(module):
    program = torch.export.export(module, (torch.ones((), dtype=module.tensors[0].dtype),))
    assert "segzoo" not in str(program.graph)
    runnable = program.module()
    for mine, theirs in zip(module.tensors, runnable.parameters(), strict=True):
        assert torch.equal(mine, theirs) or mine.isnan().any()
    # Gradients belong to the program's own parameters.
    module.tensors = torch.nn.ParameterList(runnable.parameters())
    return runnable


@pytest.mark.parametrize("form, name", FORMS_AND_CASES)
def test_forms_agree(form, name):
    """Far and broken positions among them. What the eager form gives is tested against definitions and records."""
    module = Sampling(name)
    expected = numbers(module, module)
    run = {"compiled": compiled, "exported": exported}[form](module)
    assert_same(numbers(run, module), expected, 1e-13)


def test_compiled_steps_serve_all_sizes():
    """The first size compiles placing, summing and the backward; the others compile nothing."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    for side in (7, 9, 12, 30):
        module = Sampling("attention", side=side)
        expected = numbers(module, module)

        def fused(factor, module=module):
            sampled, positions, weights = module.tensors
            return torch.ops.segzoo.ms_deform_attn(sampled * factor, [5, 9, 3, 4], positions, weights, True)

        assert_same(numbers(fused, module), expected, 1e-13)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == [3] * 4


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_whole_model_in_one_graph_trains(dtype):
    """Layers around the operator, inductor, two sizes."""

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.offset, self.mask = (torch.nn.Linear(6, n) for n in (6, 36, 18))

        def forward(self, x):
            return dcnv3(self.input(x), self.offset(x), self.mask(x), groups=2, softmax=True)

    torch.manual_seed(0)
    torch._dynamo.reset()
    model = torch.nn.Sequential(Layer(), torch.nn.GELU(), Layer())
    fast = torch.compile(model, fullgraph=True, dynamic=True)
    for size in (6, 9):
        x = torch.randn(2, size, size + 1, 6)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            expected = model(x)
            output = fast(x)
        assert output.dtype == expected.dtype == dtype
        assert torch.allclose(output, expected, atol=1e-5 if dtype == torch.float32 else 0.05)
        expected_gradients = torch.autograd.grad(expected.float().square().sum(), list(model.parameters()))
        found = torch.autograd.grad(output.float().square().sum(), list(model.parameters()))
        for a, b in zip(found, expected_gradients, strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 if dtype == torch.float32 else 0.05 * b.abs().max())


@pytest.mark.parametrize("name", ["softmax", "attention"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_inside_autocast_is_the_same(name, dtype):
    """Its products of matrices are autocast's to round."""
    module = Sampling(name, torch.float32)
    with torch.autocast("cpu", dtype):
        output = module(torch.ones(()))
        inside = torch.autograd.grad(output.float().square().sum(), list(module.tensors), retain_graph=True)
    outside = torch.autograd.grad(output.float().square().sum(), list(module.tensors))
    assert output.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("name", ["softmax", "attention"])
def test_gradients_of_samples(name):
    """Of torch.func, whose transforms know no gradients of registered operators."""
    module = Sampling(name)
    tensors = [tensor.detach() for tensor in module.tensors]

    def loss(*tensors):
        return torch.func.functional_call(
            module, {f"tensors.{i}": x for i, x in enumerate(tensors)}, torch.ones(())
        ).sum()

    everywhere = (0, 1, 2)
    expected = torch.autograd.grad(module(torch.ones(())).sum(), list(module.tensors))
    assert_same(torch.func.grad(loss, everywhere)(*tensors), expected, 1e-13)
    samples = [tensor[:, None] for tensor in tensors]
    found = torch.vmap(torch.func.grad(loss, everywhere))(*samples)
    assert_same([gradient[:, 0] for gradient in found], expected, 1e-13)
    sums = torch.vmap(loss, in_dims=(1, 0, 0))(samples[0].transpose(0, 1), *samples[1:])
    torch.testing.assert_close(sums.sum(), loss(*tensors))


@pytest.mark.parametrize("name", ["softmax", "attention"])
def test_forward_mode_is_refused(name):
    """Without a word torch would leave the tangents out; where none is, nothing is missing."""
    module, one = Sampling(name).requires_grad_(False), torch.ones((), dtype=torch.float64)
    transforms = [
        lambda: torch.func.jvp(module, (one,), (one,)),
        lambda: torch.func.jacfwd(module)(one),
        lambda: torch.func.jvp(torch.func.grad(lambda factor: module(factor).sum()), (one,), (one,)),
        lambda: torch.func.jvp(lambda x: torch.vmap(module)(x[None]), (one,), (one,)),
        lambda: torch.compile(lambda: torch.func.jvp(module, (one,), (one,)), backend="eager")(),
    ]
    for transform in transforms:
        with pytest.raises(SegZooError, match=r"no derivatives in forward mode .* take them in reverse mode"):
            transform()
    with forward_ad.dual_level():
        factor = forward_ad.make_dual(one, one)
        for run in (module, torch.no_grad()(module), Sampling(name)):
            with pytest.raises(SegZooError, match="no derivatives in forward mode"):
                run(factor)
        module.requires_grad_(True)
        output = module(one)
        with pytest.raises(SegZooError, match="backward has no derivatives in forward mode"):
            torch.autograd.grad(output, module.tensors[0], forward_ad.make_dual(output.detach(), output.detach()))
    _, tangent = torch.func.jvp(lambda factor: module(one) * factor, (one,), (one,))
    assert torch.equal(tangent, output)


@pytest.mark.parametrize("name", ["softmax", "attention"])
def test_second_derivatives_are_refused(name):
    module = Sampling(name)
    gradient = torch.autograd.grad(module(torch.ones(())).square().sum(), module.tensors[0], create_graph=True)[0]
    with pytest.raises(SegZooError, match="has no second derivatives"):
        gradient.sum().backward()


def test_kept_layouts_are_no_tensors_of_inference_mode():
    with torch.inference_mode():
        layout = sys.modules["segzoo.ops.ms_deform_attn"]._layout(
            (3, 5), 1, 7, 2, 1, 4, torch.float64, torch.device("cpu")
        )
        assert torch.ones(()).is_inference()
    assert not any(tensor.is_inference() for tensor in (layout.start, layout.line_y, *layout.pairs))


@pytest.mark.parametrize("name", ["stride, dilation and scale", "attention"])
def test_what_inference_has_prepared_serves_training(name):
    """Both keep where their points lie, from one call to the next of the same sizes."""
    module = Sampling(name, side=5)
    with torch.inference_mode():
        expected = module(1)
    found = numbers(module, module)
    assert torch.equal(found[0], expected) and all(gradient.abs().sum() > 0 for gradient in found[1:])


WITHOUT_COMPILER = """
import sys, warnings, torch, torch._inductor.config
torch._inductor.config.cpp.cxx = (None, sys.argv[1])
from segzoo.ops import dcnv3
torch.manual_seed(0)
tensors = [torch.randn(1, 6, 6, n, dtype=torch.float64, requires_grad=True) for n in (8, 36, 18)]
expected = dcnv3(*tensors, groups=2)
run = torch.compile(lambda *t: dcnv3(*t, groups=2), backend="aot_eager", fullgraph=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        output = run(*tensors)
        output.sum().backward()
assert torch.allclose(output, expected, rtol=1e-12, atol=1e-12)
print(*(str(w.message) for w in caught if "segzoo" in str(w.message)), sep="\\n")
"""


def test_without_a_compiler_the_plain_form_runs_after_one_warning(tmp_path):
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    result = run_python("-c", WITHOUT_COMPILER, tmp_path / "no-compiler", env=environment)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 1, result.stdout + result.stderr
    assert lines[0].startswith("segzoo: the deformable operators run uncompiled") and "g++" in lines[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", [*OPTIONS, "attention"])
def test_gpu_agrees_with_cpu(name, dtype, tolerance, monkeypatch):
    """Both with the Triton kernels, where Triton is installed, and with PyTorch's operators alone."""
    exact = Sampling(name)
    expected = [t.double() for t in numbers(exact, exact)]
    module = Sampling(name, dtype).cuda()
    for without_kernels in (False, True):
        if without_kernels:
            for operator in ("dcnv3", "ms_deform_attn"):
                monkeypatch.setattr(sys.modules[f"segzoo.ops.{operator}"], "gpu_kernels", lambda *_, **__: None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = numbers(lambda factor: module(factor.cuda()), module)
        assert_same([t.double().cpu() for t in found], expected, tolerance)
