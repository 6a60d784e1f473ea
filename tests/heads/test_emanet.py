"""EMANet: expectation and maximisation beside the paper, what no gradient reaches, and bases that move in training."""

import socket

import pytest
import torch
from support.contract import assert_close, settle
from torch import multiprocessing
from torch.nn import functional as F

from segzoo import AutoHead
from segzoo.errors import SegZooError
from segzoo.heads import EMAHead, EMAHeadConfig
from segzoo.heads.emanet import ExpectationMaximization


def fitted(pixels, bases, stages):
    """(bases, shares) after some rounds over pixels (B, C, N)."""
    for _ in range(stages):
        shares = torch.einsum("bcn,bck->bnk", pixels, bases).softmax(2)
        bases = F.normalize(torch.einsum("bcn,bnk->bck", pixels, F.normalize(shares, p=1, dim=1)), dim=1)
    return bases, shares


@torch.no_grad()
@pytest.mark.parametrize("concat", [True, False])
def test_pixels_are_rebuilt_from_bases(concat):
    config = EMAHeadConfig.tiny()
    config.concat_input = concat
    head = settle(EMAHead(config)).eval().double()
    x = torch.randn(2, 32, 7, 5).double()
    pixels = head.pixel_conv(x)
    before = head.attention.bases.clone()
    bases, shares = fitted(head.middle_conv(pixels).flatten(2), before.expand(2, -1, -1), 3)
    rebuilt = torch.einsum("bck,bnk->bcn", bases, shares).unflatten(2, (7, 5))
    found = head.output_conv(F.relu(pixels + head.attention_conv(F.relu(rebuilt))))
    found = head.conv_cat(torch.cat([x, found], 1)) if concat else found
    assert_close(head([x, x, x]).logits, head.classifier(found), 1e-12)
    assert torch.equal(head.attention.bases, before), "they move in training only"


def test_what_is_not_trained(tmp_path):
    head = settle(EMAHead(EMAHeadConfig.tiny())).train()
    frozen = {"middle_conv.weight", "middle_conv.bias"}
    head.save_pretrained(tmp_path)
    for model in (head, AutoHead.from_pretrained(tmp_path)):
        assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    # As if nothing were frozen: no gradient passes the bases.
    head.middle_conv.requires_grad_(True)
    head([torch.randn(2, 32, 6, 5)] * 3).logits.square().sum().backward()
    assert {name for name, parameter in head.named_parameters() if parameter.grad is None} == frozen


def test_bases_begin_as_random_directions():
    torch.manual_seed(0)
    bases = EMAHead(EMAHeadConfig(in_channels=[8], channels=16, num_labels=3)).attention.bases
    assert bases.shape == (1, 512, 64)
    torch.testing.assert_close(bases.norm(dim=1), torch.ones(1, 64))
    assert abs(float(bases.mean())) < 1e-3 and (bases[0].mT @ bases[0] - torch.eye(64)).abs().max() < 0.3


@torch.no_grad()
def test_a_batch_moves_the_bases():
    layer = ExpectationMaximization(6, 4, num_stages=2, momentum=0.1).double()
    x, before = torch.randn(3, 6, 4, 5).double(), layer.bases.clone()
    expected = layer.eval()(x)
    assert torch.equal(layer.train()(x), expected), "a batch is rebuilt from the bases before it moves them"
    bases, _ = fitted(x.flatten(2), before.expand(3, -1, -1), 2)
    mean = F.normalize(bases.mean(0, keepdim=True), dim=1)
    assert_close(layer.bases, 0.9 * before + 0.1 * mean, 1e-12)
    assert not torch.equal(layer.bases, before)


def _process(rank, port, start, pictures, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    layer = ExpectationMaximization(6, 4, num_stages=2, momentum=0.1)
    layer.bases.copy_(start)
    for step in range(2):
        layer(pictures[step, rank])
    results[rank] = layer.bases[0]
    torch.distributed.destroy_process_group()


def test_processes_move_them_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ExpectationMaximization(6, 4, num_stages=2, momentum=0.1)
    start, pictures = together.bases.clone(), torch.randn(2, 2, 3, 6, 4, 5)
    results = torch.zeros(2, 6, 4).share_memory_()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(rank, port, start, pictures, results)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for step in range(2):
        together(pictures[step].flatten(0, 1))  # one process with all pictures
    assert torch.equal(results[0], results[1])
    torch.testing.assert_close(results[0], together.bases[0])


@pytest.mark.parametrize("options", [{"num_stages": 0}, {"momentum": 1.5}, {"momentum": -0.1}])
def test_options_out_of_range(options):
    with pytest.raises(SegZooError, match="num_stages=.* momentum="):
        EMAHeadConfig(**options)
