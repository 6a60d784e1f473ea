import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segzoo.errors import SegZooError
from segzoo.training.guards import FiniteGuard, gradient_norm

GOOD, BAD = torch.tensor(1.0), torch.tensor(math.nan)


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def test_lets_finite_steps_pass_and_leaves_single_bad_ones_out(accelerator):
    guard = FiniteGuard(3, accelerator)
    assert guard.allows(1, GOOD, GOOD, ["a.png"])
    assert not guard.allows(2, BAD, BAD, ["b.png"])
    assert not guard.allows(3, GOOD, torch.tensor(math.inf), ["c.png"])
    assert guard.allows(4, GOOD, GOOD, ["d.png"])
    assert not guard.allows(5, BAD, BAD, ["e.png"])
    assert guard.total == 3


def test_names_the_files_of_the_bad_steps(accelerator):
    guard = FiniteGuard(2, accelerator)
    guard.allows(1, GOOD, GOOD, ["good.png"])
    guard.allows(2, BAD, BAD, ["b1.png", "b2.png"])
    with pytest.raises(SegZooError, match=r"loss is nan in steps 2 to 3.*b1.png, b2.png, c.png") as error:
        guard.allows(3, BAD, BAD, ["c.png"])
    assert "good.png" not in str(error.value) and "--learning_rate" in str(error.value)


def test_first_bad_step_with_a_limit_of_one(accelerator):
    with pytest.raises(SegZooError, match="gradient is not finite at step 7.*x.png"):
        FiniteGuard(1, accelerator).allows(7, GOOD, BAD, ["x.png"])
    with pytest.raises(SegZooError, match="--max_bad_steps"):
        FiniteGuard(0, accelerator)


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_gradient_norm(accelerator, max_norm):
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    expected = math.sqrt(8 * 4.0)
    assert float(gradient_norm(accelerator, model, max_norm)) == pytest.approx(expected)
    left = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert left == pytest.approx(expected if max_norm is None else max_norm, rel=1e-4)
