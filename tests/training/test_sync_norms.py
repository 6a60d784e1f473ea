"""The replacement of norms by synchronised ones; synchronising itself needs GPUs."""

import copy

import pytest
import torch
from support.script_process import ScriptRun
from torch import nn
from torch.utils.checkpoint import checkpoint

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation
from segzoo.layers import BatchNorm2d
from segzoo.training.optimization import parameter_groups
from segzoo.training.sync_norms import SyncBatchNorm, freeze_batch_norms, synchronise_batch_norms


def tensors(model):
    return {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


def test_a_model_keeps_its_tensors_keys_and_results(tmp_path):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny()).eval()
    images = torch.rand(2, 3, 32, 32)
    before, expected = tensors(model), model(images).logits
    count = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert synchronise_batch_norms(model) is model
    assert tensors(model) == before
    assert sum(isinstance(module, SyncBatchNorm) for module in model.modules()) == count > 10
    assert not any(isinstance(module, nn.BatchNorm2d) or module.training for module in model.modules())
    assert torch.equal(model(images).logits, expected)
    model.save_pretrained(tmp_path)
    again = SegZooForSemanticSegmentation.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(images).logits, expected)
    assert synchronise_batch_norms(model) is model and tensors(model) == before


def test_the_optimizer_treats_them_as_norms():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    sizes = [
        [len(group["params"]), group["weight_decay"]]
        for group in parameter_groups(model, learning_rate=1, weight_decay=0.1)
    ]
    groups = parameter_groups(synchronise_batch_norms(model), learning_rate=1, weight_decay=0.1)
    assert [[len(group["params"]), group["weight_decay"]] for group in groups] == sizes


@pytest.mark.parametrize("synchronised", [False, True])
def test_checkpointing_moves_the_running_statistics_once(synchronised):
    """As our own BatchNorm2d does; plain torch's conversion would lose it."""
    block = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.ReLU())
    if synchronised:
        block = synchronise_batch_norms(block)
    plain = copy.deepcopy(block)
    x = torch.rand(2, 3, 8, 8)
    for use_reentrant in (False, True):
        gradients = []
        for module, recompute in ((block, True), (plain, False)):
            module.zero_grad()
            inputs = x.clone().requires_grad_()
            out = checkpoint(module, inputs, use_reentrant=use_reentrant) if recompute else module(inputs)
            out.square().sum().backward()
            gradients.append(inputs.grad)
        assert torch.equal(*gradients)
        for name, tensor in plain.state_dict().items():
            assert torch.equal(block.state_dict()[name], tensor), name
    assert plain[1].num_batches_tracked == 2


def test_torch_alone_would_lose_that():
    block = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(BatchNorm2d(4)))
    checkpoint(block, torch.rand(2, 4, 3, 3, requires_grad=True), use_reentrant=False).sum().backward()
    assert block[0].num_batches_tracked == 2


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"bias": None}, {"track_running_stats": False}, {"momentum": None}]
)
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (4, 3)), (nn.BatchNorm2d, (4, 3, 2, 2)), (nn.BatchNorm3d, (2, 3, 2, 2, 2))]
)
def test_every_kind(kind, shape, options):
    norm = nn.Sequential(kind(3, eps=0.1, **{name: value for name, value in options.items() if name != "bias"}))
    if "bias" in options:
        norm[0].bias = None  # as ``bias=False`` does in newer versions of torch
    other = synchronise_batch_norms(copy.deepcopy(norm))
    assert list(other.state_dict()) == list(norm.state_dict()) and type(other[0]) is SyncBatchNorm
    x = torch.rand(shape)
    for training in (True, False):
        assert torch.equal(norm.train(training)(x), other.train(training)(x))
    assert not [name for name, tensor in norm.state_dict().items() if not tensor.equal(other.state_dict()[name])]


def test_a_norm_in_two_places_stays_one_and_a_norm_alone_is_returned():
    norm = nn.BatchNorm2d(3)
    model = synchronise_batch_norms(nn.ModuleDict({"a": norm, "b": nn.Sequential(norm, nn.ReLU())}))
    assert model["a"] is model["b"][0] and type(model["a"]) is SyncBatchNorm
    assert type(synchronise_batch_norms(nn.BatchNorm2d(3))) is SyncBatchNorm


def test_timms_norms_keep_their_activation():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(layers.BatchNormAct2d(3)).eval()
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    assert expected.min() == 0
    before = tensors(model)
    synchronise_batch_norms(model)
    assert isinstance(model[0], nn.SyncBatchNorm) and tensors(model) == before
    assert torch.equal(model.eval()(x), expected)


def test_a_norm_of_its_own_kind_is_refused_by_name():
    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(SegZooError, match="Doubled.*--no_sync_batch_norm"):
        synchronise_batch_norms(nn.Sequential(Doubled(3)))


def test_frozen_norms_use_and_keep_their_statistics_and_still_learn():
    model = nn.Sequential(BatchNorm2d(3), nn.Dropout(0.5)).train()
    freeze_batch_norms(model)
    assert not model[0].training and model[1].training
    model[0](torch.rand(2, 3, 4, 4) + 5).sum().backward()
    assert model[0].running_mean.eq(0).all() and model[0].weight.grad is not None


SCRIPT = """
import torch
from accelerate import Accelerator
from segzoo.training.sync_norms import broadcast_buffers

def main(argv):
    accelerator = Accelerator()
    model = torch.nn.BatchNorm2d(2)
    model(torch.full((2, 2, 3, 3), 1.0 + accelerator.process_index))
    broadcast_buffers(accelerator, model)
    print(accelerator.process_index, model.running_mean.tolist(), model.num_batches_tracked.item(), flush=True)
    accelerator.end_training()
    return 0
"""


def test_all_processes_get_the_main_ones_statistics(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = ScriptRun([], tmp_path / "logs", processes=2, script=tmp_path / "script.py")
    assert run.wait() == [0, 0], run.stderr
    first, second = run.stdout.splitlines()
    assert first[2:] == second[2:] and first[2:].startswith("[0.1")
