"""The faster memory format of a training on a CPU."""

import json

import pytest
import torch
from support.contract import pairs_of_parts, settle, tiny_composite
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.inference.faster import in_memory_format
from segzoo.precision_state import own_precision
from segzoo.training import memory_format
from segzoo.training.memory_format import LEAST_STEPS, measured_format, take_memory_format
from segzoo.training.options import DEFAULTS, RunOptions
from segzoo.training.surroundings import Surroundings

SECONDS = {"contiguous": 1.0, "channels_last": 0.5}


@pytest.fixture
def model():
    return settle(SegZooForSemanticSegmentation(SegZooConfig.tiny())).train()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes surroundings with the given options, which keep the lines that they say."""

    def make(**options):
        precision = options.pop("mixed_precision", "no")
        found = Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True, **options), precision)
        found.said = []
        monkeypatch.setattr(found, "say", found.said.append)
        return found

    with own_precision():
        yield make


def is_channels_last(model):
    weights = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights} == {True}


def test_measuring_changes_nothing_but_the_format(model, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.decode_heads[0].eval()  # as norms that are held still
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    chosen, line = measured_format(model, (96, 64), folder=tmp_path)
    assert line.startswith(f"memory format: {chosen} (") and chosen in SECONDS
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_is_measured_once_for_training_alone(model, tmp_path):
    measured_format(model, (64, 64), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    # The gain has to be larger than what measurements differ by.
    for own, expected in ((0.5, "channels_last"), (0.99, "contiguous"), (2.0, "contiguous")):
        file.write_text(json.dumps({"seconds": SECONDS | {"channels_last": own}}))
        assert measured_format(model, (64, 64), folder=tmp_path)[0] == expected
    with torch.no_grad():
        in_memory_format(model.eval(), "auto", (64, 64), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_under_autocast_it_is_measured_under_autocast(model, tmp_path):
    types = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, _, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default:
                types.add(args[0].dtype)
            return func(*args, **(kwargs or {}))

    for autocast, expected in ((True, {torch.bfloat16}), (False, {torch.float32})):
        types.clear()
        with Seen():
            measured_format(model, (64, 64), autocast=autocast, folder=tmp_path)
        assert types == expected
    assert len(list(tmp_path.iterdir())) == 2


def test_the_format_of_the_beginning_stays_unless_the_other_is_clearly_faster(model, monkeypatch):
    seconds = {"contiguous": 0.97, "channels_last": 1.0}
    monkeypatch.setattr(memory_format, "seconds_of_formats", lambda *_, **__: seconds)
    assert measured_format(model, (64, 64))[0] == "contiguous"
    assert measured_format(model, (64, 64), begun="channels_last")[0] == "channels_last"
    seconds["contiguous"] = 0.9
    chosen, line = measured_format(model, (64, 64), begun="channels_last")
    assert (chosen, line) == ("contiguous", "memory format: contiguous (0.90 s measured, channels_last 1.00 s)")


def test_of_large_crops_a_part_is_measured(model, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        memory_format, "seconds_of_formats", lambda _, x, **__: sizes.append(tuple(x.shape[-2:])) or SECONDS
    )
    measured_format(model, (2**30, 96))
    assert sizes == [(512, 96)]


def test_models_that_are_not_measured(model, tmp_path):
    model.requires_grad_(False)
    assert measured_format(model, (64, 64), folder=tmp_path) is None
    model.requires_grad_(True).backbone.register_forward_hook(lambda *_: None)
    assert measured_format(model, (64, 64), folder=tmp_path) is None
    assert measured_format(torch.nn.Conv2d(3, 3, 3), (64, 64), folder=tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ({}, LEAST_STEPS, "channels_last"),
        ({}, LEAST_STEPS - 1, "contiguous"),
        ({"memory_format": "contiguous"}, LEAST_STEPS, "contiguous"),
        ({"memory_format": "channels_last"}, 1, "channels_last"),
        ({"torch_compile": True}, LEAST_STEPS, "contiguous"),
        ({"mixed_precision": "bf16"}, LEAST_STEPS, "channels_last"),
        ({"mixed_precision": "bf16"}, 1, "channels_last"),
    ],
)
def test_what_a_training_takes(model, here, monkeypatch, options, steps, expected):
    monkeypatch.setattr(memory_format, "seconds_of_formats", lambda *_, **__: SECONDS)
    found = here(**options)
    take_memory_format(found, model, DEFAULTS, total_steps=steps)
    assert found.format_name == expected and found.channels_last is is_channels_last(model)
    assert found.memory_format == getattr(torch, {"contiguous": "contiguous_format"}.get(expected, expected))
    measured = steps == LEAST_STEPS and not options.keys() & {"memory_format", "torch_compile"}
    assert found.said == ["memory format: channels_last (0.50 s measured, contiguous 1.00 s)"] * measured


def test_a_resumed_training_keeps_its_format(model, here, monkeypatch):
    """Measured anew, it might go on with other roundings."""
    monkeypatch.setattr(memory_format, "seconds_of_formats", lambda *_, **__: SECONDS)
    kept = {"memory_format": "contiguous"}
    monkeypatch.setattr(memory_format, "kept_settings", lambda folder, wanted: kept)
    found = here(resume_from_checkpoint="latest")
    take_memory_format(found, model, DEFAULTS, total_steps=LEAST_STEPS)
    assert found.said == ["memory format: contiguous, as before"] and not is_channels_last(model)
    kept.clear()  # a checkpoint of an earlier version, or none
    take_memory_format(found, model, DEFAULTS, total_steps=LEAST_STEPS)
    assert found.format_name == "channels_last" and is_channels_last(model)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "head"), pairs_of_parts())
def test_every_model_is_measured(backbone, head, tmp_path):
    model = tiny_composite(backbone, head).train()
    chosen = measured_format(model, (128, 128), folder=tmp_path)
    assert chosen is not None or backbone == "segzoo_stage_encoder"  # which has sizes of its own
    assert model.training and all(weight.grad is None for weight in model.parameters())
