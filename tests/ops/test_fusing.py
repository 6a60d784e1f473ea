import warnings

import pytest
import torch

from segzoo.ops import fusing


@pytest.fixture
def messages():
    """The messages of all warnings of segzoo in the test."""
    fusing.warn_once.cache_clear()
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [str(w.message) for w in caught if "segzoo" in str(w.message)]
    fusing.warn_once.cache_clear()
    torch._dynamo.reset()


def double(x):
    return x + x


def plain(x):
    return torch.full_like(x, -1)


def with_backend(run):
    """A function whose compiled form is that of a backend: inductor's place is taken, nothing is compiled."""
    function = fusing.Fused(double, plain)
    function._compiled = torch.compile(double, fullgraph=True, backend=run)
    return function


def test_errors_of_a_compiled_call_are_raised_and_compiling_goes_on(messages):
    failures = [torch.OutOfMemoryError("out of memory"), RuntimeError("bad input")]

    def backend(graph, example):
        def call(*arguments):
            if failures:
                raise failures.pop(0)
            return graph(*arguments)

        return call

    function = with_backend(backend)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        function(torch.ones(3))
    with pytest.raises(RuntimeError, match="bad input"):
        function(torch.ones(3))
    assert torch.equal(function(torch.ones(3)), torch.full((3,), 2.0)) and messages() == []


def test_a_failed_compilation_is_for_its_function_alone(messages):
    tries = []

    def backend(graph, example):
        tries.append(graph)
        raise OSError("no compiler")

    failing = with_backend(backend)
    for _ in range(2):
        assert torch.equal(failing(torch.ones(3)), torch.full((3,), -1.0))
    working = with_backend(lambda graph, example: graph)
    assert torch.equal(working(torch.ones(3)), torch.full((3,), 2.0))
    (message,) = messages()
    assert len(tries) == 1 and "run uncompiled" in message and "(no compiler)" in message


def test_one_kind_too_many_runs_uncompiled_alone(messages, monkeypatch):
    monkeypatch.setattr(fusing, "_KINDS", 1)
    function = fusing.Fused(double, plain)
    for dtype, expected in ((torch.float32, 2), (torch.float64, -1), (torch.float64, -1), (torch.float32, 2)):
        assert torch.equal(function(torch.ones(3, dtype=dtype)), torch.full((3,), expected, dtype=dtype))
    (message,) = messages()
    assert "torch.compiler.reset()" in message and "g++" not in message
    torch.compiler.reset()
    assert float(function(torch.ones(3, dtype=torch.float64))[0]) == 2
