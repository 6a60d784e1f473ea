import pytest
import torch
from torch import nn

from segzoo.errors import SegZooError
from segzoo.training.ema import WeightAverage


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_average_follows_the_formula_and_copies_buffers():
    model, decay = make_model(), 0.75
    average = WeightAverage(model, decay)
    expected = None
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model[1].running_mean.add_(1.0)
        average.update(model)
        weight = model[0].weight.detach().clone()
        # The first update takes the weights as they are, as torch's AveragedModel does.
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    averaged = average.averaged.module
    torch.testing.assert_close(averaged[0].weight, expected)
    torch.testing.assert_close(averaged[1].running_mean, model[1].running_mean)


def test_applied_within_a_context_only():
    model = make_model()
    average = WeightAverage(model, 0.5)
    average.update(model)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    own = model[0].weight.detach().clone()
    with average.applied_to(model):
        torch.testing.assert_close(model[0].weight.detach(), before)
    assert torch.equal(model[0].weight, own)
    with pytest.raises(ZeroDivisionError), average.applied_to(model):
        raise ZeroDivisionError
    assert torch.equal(model[0].weight, own)
    average.copy_to(model)
    assert torch.equal(model[0].weight, before)


def test_goes_on_from_its_state():
    model = make_model()
    first, second = WeightAverage(model, 0.9), WeightAverage(make_model(), 0.9)
    first.update(model)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        model[0].bias.add_(1.0)
    first.update(model)
    second.update(model)
    assert torch.equal(first.averaged.module[0].bias, second.averaged.module[0].bias)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, 2.0])
def test_refuses_a_decay_that_is_none(decay):
    with pytest.raises(SegZooError, match="--ema_decay"):
        WeightAverage(make_model(), decay)
