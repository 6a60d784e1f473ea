"""Single optimizer steps with real losses: the mean that is reported, and gradients of several passes."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segzoo.losses import CrossEntropyLoss
from segzoo.progress import Progress
from segzoo.training.guards import LabelGuard
from segzoo.training.learner import Learner
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.room import Sizes
from segzoo.training.state import TrainingState
from segzoo.training.steps import Steps
from segzoo.training.surroundings import Surroundings


class Model(nn.Module):
    """A convolution of one pixel, behind a batch norm if there is one, and the loss of a head."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, pixel_values, labels):
        return SimpleNamespace(loss=CrossEntropyLoss()(self.conv(self.norm(pixel_values)), labels))


def take_steps(tmp_path, batches, *, accumulation=1, scaler=None, norm=False, kind=Model):
    """Steps over batches; returns the state and the model afterwards."""
    here = Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True), Recipe().mixed_precision)
    here.accelerator.scaler = scaler
    model, state = kind(norm), TrainingState(here.accelerator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    sizes = Sizes.of(model, optimizer, averaged=False, left_out=None)
    model, optimizer = here.accelerator.prepare(model, optimizer)
    learner = Learner(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        average=None,
        accumulation=accumulation,
        max_norm=None,
        sizes=sizes,
        averages_counted=kind is MeanOfCounted,
    )
    labels, count = LabelGuard(50, 255, 0, here.accelerator), len(batches) // accumulation
    steps = Steps(learner, here, state, progress=Progress(count, enabled=False), labels=labels, max_bad_steps=3)
    batches = iter(batches)
    for state.step in range(1, count + 1):
        steps.take(batches)
    return state, here.accelerator.unwrap_model(model)


class MeanOfCounted(Model):
    """With the loss of transformers' models: the mean over the pixels that count."""

    def forward(self, pixel_values, labels):
        return SimpleNamespace(loss=nn.functional.cross_entropy(self.conv(pixel_values), labels, ignore_index=255))


def batch(size, *, ignored=0, value=None):
    values = torch.randn(size, 3, 4, 4) if value is None else torch.full((size, 3, 4, 4), value)
    labels = torch.randint(4, (size, 4, 4))
    labels[0, :ignored] = 255
    return {"pixel_values": values, "labels": labels, "name": ["a.png"] * size}


@pytest.mark.parametrize("scaler", [None, "cpu"])
def test_a_step_whose_loss_is_not_finite_leaves_no_trace(tmp_path, scaler):
    """With a scaler, as with fp16, the optimizer's step is taken and skips the update itself."""
    batches = [batch(2), batch(2, value=math.nan), batch(2)]
    scaler = scaler and torch.amp.GradScaler(scaler, init_scale=4.0)
    state, model = take_steps(tmp_path, batches, scaler=scaler, norm=True)
    alone, expected = take_steps(tmp_path, batches[::2], norm=True)
    assert state.mean_loss.steps == 2
    assert state.mean_loss.take() == pytest.approx(alone.mean_loss.take())
    torch.testing.assert_close(model.state_dict(), expected.state_dict())  # running statistics among them


@pytest.mark.parametrize("kind", [Model, MeanOfCounted])
def test_passes_with_different_numbers_of_ignored_pixels_are_one_batch(tmp_path, kind):
    passes = [batch(2, ignored=4), batch(2, ignored=1), batch(2)]
    whole = {name: torch.cat([one[name] for one in passes]) for name in ("pixel_values", "labels")}
    state, model = take_steps(tmp_path, passes, accumulation=3, kind=kind)
    other, expected = take_steps(tmp_path, [whole | {"name": ["a.png"] * 6}], kind=kind)
    torch.testing.assert_close(model.conv.weight, expected.conv.weight)
    assert state.mean_loss.take() == pytest.approx(other.mean_loss.take())


def test_a_part_in_which_no_pixel_counts_adds_nothing(tmp_path):
    parts = [batch(2, value=0.5), batch(2, ignored=4)]
    parts[1]["labels"].fill_(255)
    state, model = take_steps(tmp_path, parts, accumulation=2, kind=MeanOfCounted)
    untrained = MeanOfCounted(False)
    loss = untrained(parts[0]["pixel_values"], parts[0]["labels"]).loss
    loss.backward()
    assert state.mean_loss.take() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(model.conv.weight, untrained.conv.weight - 0.1 * untrained.conv.weight.grad)


def test_a_number_of_passes_in_the_environment_divides_nothing(tmp_path, monkeypatch):
    parts = [batch(2), batch(2)]
    _, expected = take_steps(tmp_path, parts, accumulation=2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    _, model = take_steps(tmp_path, parts, accumulation=2)
    torch.testing.assert_close(model.conv.weight, expected.conv.weight, rtol=0, atol=0)
