import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segzoo.errors import SegZooError
from segzoo.training.guards import FiniteGuard, LabelGuard, gradient_norm

GOOD, BAD = torch.tensor(1.0), torch.tensor(math.nan)


@pytest.fixture
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


def test_a_bad_step_leaves_running_statistics_as_they_were(accelerator):
    """Else one picture that is not finite, or an overflow, makes every later evaluation that of NaN."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    guard = FiniteGuard(2, accelerator, model=model)
    pictures = torch.randn(2, 3, 4, 4)
    for step, batch in enumerate((pictures, pictures * math.nan, 2 * pictures), 1):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        guard.remember()
        loss = model(batch).square().sum()
        loss.backward()
        norm = gradient_norm(accelerator, model, None)
        assert guard.allows(step, loss.detach(), norm, []) == (step != 2)
        model.zero_grad()
        same = [torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()]
        assert all(same) if step == 2 else not any(same)
    assert model.eval()(pictures).isfinite().all()


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_gradient_norm(accelerator, max_norm):
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    expected = math.sqrt(8 * 4.0)
    assert float(gradient_norm(accelerator, model, max_norm)) == pytest.approx(expected)
    left = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert left == pytest.approx(expected if max_norm is None else max_norm, rel=1e-4)


IGNORED, LABELLED = torch.full((2, 40, 40), 255), torch.full((2, 40, 40), 255)
LABELLED[1, 33, 7] = 3  # not in the rows and columns that are looked at first


def test_steps_without_labels_end_the_training(accelerator):
    guard = LabelGuard(3, 255, 10, accelerator)
    for step, batches in enumerate([(IGNORED,), (IGNORED,), (IGNORED, LABELLED, IGNORED), (IGNORED,), (IGNORED,)], 11):
        for labels in batches:
            assert guard.add(step, labels) is (labels is LABELLED)
        guard.check(step)
    assert guard.empty_steps(15) == 2
    guard.add(16, IGNORED)
    with pytest.raises(
        SegZooError, match="no pixel of any label counts in steps 14 to 16: all are 255.*--max_empty_steps"
    ):
        guard.check(16)


def test_a_loss_that_is_nan_for_want_of_labels_says_so(accelerator):
    labels = LabelGuard(50, 255, 0, accelerator)
    guard = FiniteGuard(2, accelerator, labels)
    for step, batch in enumerate([LABELLED, IGNORED], 1):
        labels.add(step, batch)
        guard.allows(step, *((GOOD, GOOD) if step == 1 else (BAD, BAD)), ["a.png"])
    labels.add(3, IGNORED)
    with pytest.raises(SegZooError, match="the loss is nan in steps 2 to 3, in which no pixel of any label counts"):
        guard.allows(3, BAD, BAD, ["b.png"])
