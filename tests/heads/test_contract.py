"""What every registered decode head must do."""

import dataclasses
from typing import Literal

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from support.contract import (
    assert_close,
    assert_config_round_trip,
    assert_gradients,
    assert_same_state,
    settle,
)
from support.versions import whole_graph
from transformers import AutoConfig

from segzoo import AutoHead
from segzoo.auto import HEADS
from segzoo.errors import SegZooError
from segzoo.layers import ConvNormAct, resize
from segzoo.losses import CrossEntropyLoss, DiceLoss, build_loss

every_head = pytest.mark.parametrize("model_type", sorted(HEADS))
COMPILED = ("segzoo_fcn_head", "segzoo_ocr_head", "segzoo_separable_aspp_head", "segzoo_uper_head")
# Compiling takes longer than everything else together: one head of each family is compiled each time.
compiled_heads = pytest.mark.parametrize(
    "model_type",
    [name if name in COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in sorted(HEADS)],
)


def build(model_type, **options):
    config = HEADS[model_type].config.tiny()
    for name, value in options.items():
        setattr(config, name, value)
    return settle(AutoHead.from_config(config)).eval()


def cut(inputs, batch):
    """The inputs of a part of the batch."""
    take = lambda value: value[batch] if isinstance(value, torch.Tensor) else value  # noqa: E731
    parts = {"feature_maps": [take(x) for x in inputs["feature_maps"]]}
    if "previous" in inputs:
        previous = inputs["previous"]
        parts["previous"] = type(previous)(**{name: take(value) for name, value in previous.items()})
    return parts


@every_head
def test_registered(model_type):
    config_class, model_class = HEADS[model_type].config, HEADS[model_type].model
    assert isinstance(AutoConfig.for_model(model_type), config_class)
    assert type(AutoHead.from_config(config_class.tiny())) is model_class


@every_head
def test_config_round_trip(model_type, tmp_path):
    config = HEADS[model_type].config.tiny()
    config.num_labels = 9
    assert_config_round_trip(config, tmp_path)
    assert type(config).from_pretrained(tmp_path).num_labels == 9
    assert "id2label" not in (tmp_path / "config.json").read_text()


@every_head
def test_unknown_option_is_named(model_type):
    with pytest.raises(SegZooError, match="no_such_option"):
        HEADS[model_type].config(no_such_option=1)


@every_head
def test_needs_channels(model_type):
    config = HEADS[model_type].config.tiny()
    config.in_channels = None
    with pytest.raises(SegZooError, match="in_channels"):
        AutoHead.from_config(config)


@every_head
def test_save_and_load_alone(model_type, tmp_path):
    head = build(model_type)
    head.save_pretrained(tmp_path)
    loaded = AutoHead.from_pretrained(tmp_path).eval()
    assert_same_state(head, loaded)
    inputs = head.config.tiny_inputs()
    assert_close(loaded(**inputs).logits, head(**inputs).logits)


@every_head
@pytest.mark.parametrize("size", [(16, 24), (19, 27), (9, 7)])
def test_dense_logits_at_any_size(model_type, size):
    head = build(model_type)
    inputs = head.config.tiny_inputs(2, *size)
    before = torch.get_rng_state()
    logits = head(**inputs).logits
    assert torch.equal(torch.get_rng_state(), before), "results depend on what else draws random numbers"
    assert logits.shape[:2] == (2, head.config.num_outputs)
    assert logits.ndim == 4 and torch.isfinite(logits).all()


@every_head
def test_batch_equals_single(model_type):
    head = build(model_type)
    inputs = head.config.tiny_inputs(3)
    with torch.no_grad():
        together = head(**inputs).logits
        for i in range(3):
            one = slice(i, i + 1)
            assert_close(together[one], head(**cut(inputs, one)).logits)


@every_head
def test_gradients_reach_every_parameter(model_type):
    head = build(model_type).train()
    output = head(**head.config.tiny_inputs())
    labels = torch.randint(0, head.config.num_labels, (2, 64, 96))
    sum(head.compute_loss(output, labels, 255).values()).backward()
    assert_gradients(head)


@every_head
def test_losses_are_summed_by_name(model_type):
    labels = torch.randint(0, 5, (2, 64, 96))
    head = build(model_type, dropout=0.0)
    head.set_losses([CrossEntropyLoss()])
    output = head(**head.config.tiny_inputs())
    one = head.compute_loss(output, labels, 255)
    head.set_losses([{"type": "cross_entropy", "weight": 0.4}, CrossEntropyLoss(weight=2.0), DiceLoss(weight=3.0)])
    parts = head.compute_loss(output, labels, 255)
    # a head with several logits repeats each loss with a prefix
    assert {name.rpartition(".")[2] for name in set(parts) - set(one)} == {"dice"}
    assert_close(parts["cross_entropy"], 2.4 * one["cross_entropy"])
    logits = resize(output.logits, (64, 96), align_corners=head.config.align_corners)
    assert_close(parts["dice"], DiceLoss(weight=3.0)(logits, *head.targets(labels, 255)))


@every_head
def test_losses_are_kept_in_the_config(model_type, tmp_path):
    losses = [{"type": "cross_entropy", "ohem": {"threshold": 0.7, "min_kept": 50}}, {"type": "lovasz", "weight": 0.5}]
    head = build(model_type)
    head.set_losses(losses)
    head.save_pretrained(tmp_path)
    loaded = AutoHead.from_pretrained(tmp_path)
    assert loaded.config.losses == losses
    assert loaded.losses == tuple(build_loss(loss) for loss in losses)


@every_head
@pytest.mark.parametrize("losses", [[], "dice", [{"type": "dyce"}], [{"type": "dice", "class_weights": [1.0]}]])
def test_wrong_losses_change_nothing(model_type, losses):
    head = build(model_type)
    before = head.config.losses, head.losses
    with pytest.raises(SegZooError):
        head.set_losses(losses)
    assert (head.config.losses, head.losses) == before


@every_head
def test_only_ignored_labels_give_zero_loss(model_type):
    head = build(model_type).train()
    for losses in ([{"type": "cross_entropy"}], [{"type": "cross_entropy", "average": "valid"}, {"type": "dice"}]):
        head.set_losses(losses)
        output = head(**head.config.tiny_inputs())
        loss = sum(head.compute_loss(output, torch.full((2, 64, 96), 255), 255).values())
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())


@every_head
def test_half_precision_logits_are_resized_in_float32(model_type):
    head, labels = build(model_type), torch.randint(0, 5, (2, 64, 96))
    head.set_losses([CrossEntropyLoss()])
    output = head(**head.config.tiny_inputs())
    output.logits = output.logits.bfloat16()
    half = head.compute_loss(output, labels, 255)["cross_entropy"]
    output.logits = output.logits.float()
    assert torch.equal(half, head.compute_loss(output, labels, 255)["cross_entropy"])


@every_head
def test_bfloat16_autocast(model_type):
    head = build(model_type)
    inputs = head.config.tiny_inputs()
    with torch.no_grad():
        full = head(**inputs).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = head(**inputs).logits
    assert_close(half.float(), full, 0.05)


@whole_graph
@compiled_heads
def test_compiles_as_one_graph(model_type):
    torch.compiler.reset()  # heads share a forward, and one forward is compiled a limited number of times
    head = build(model_type)
    inputs = head.config.tiny_inputs()
    with torch.no_grad():
        expected = head(**inputs).logits
        assert_close(torch.compile(head, backend="aot_eager", fullgraph=True)(**inputs).logits, expected)


@every_head
def test_wrong_maps_are_named(model_type):
    head = build(model_type)
    inputs = head.config.tiny_inputs()
    maps = inputs["feature_maps"]
    with pytest.raises(SegZooError, match="in_index and in_channels"):
        head(**{**inputs, "feature_maps": [m[:, :3] for m in maps]})
    with pytest.raises(SegZooError, match=type(head).__name__):
        head(**{**inputs, "feature_maps": maps[:0]})


@every_head
def test_one_image_pooled_to_a_point_cannot_be_normalised_in_training(model_type):
    head = build(model_type).train()
    if not head.config.pools_to_points:
        head(**head.config.tiny_inputs(1))
        return
    with pytest.raises(SegZooError, match="batch of at least 2"):
        head(**head.config.tiny_inputs(1))


@every_head
@pytest.mark.parametrize("norm", ["group_norm", None])
def test_other_norms(model_type, norm, tmp_path):
    config_class = HEADS[model_type].config
    options = {**config_class.tiny().to_diff_dict(), "norm": norm, "channels": 64}
    options.pop("model_type")
    (kind,) = (field.type for field in dataclasses.fields(config_class) if field.name == "norm")
    if kind == Literal["group_norm"] and norm is None:  # a head that its paper ties to one norm
        with pytest.raises(StrictDataclassFieldValidationError, match="norm"):
            config_class(**options)
        return
    head = settle(AutoHead.from_config(config_class(**options))).train()
    inputs = head.config.tiny_inputs(1)
    sum(head.compute_loss(head(**inputs), torch.randint(0, 5, (1, 64, 96)), 255).values()).backward()
    assert_gradients(head)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in head.modules())
    blocks = [module for module in head.modules() if isinstance(module, ConvNormAct)]
    assert all((block.conv.bias is not None) == (norm is None) for block in blocks)
    head.save_pretrained(tmp_path)
    assert_close(AutoHead.from_pretrained(tmp_path).eval()(**inputs).logits, head.eval()(**inputs).logits)


@every_head
def test_own_number_of_outputs(model_type, tmp_path):
    head = build(model_type, own_outputs=3)
    logits = head(**head.config.tiny_inputs()).logits
    assert logits.shape[1] == 3 and head.config.num_labels == 5
    head.save_pretrained(tmp_path)
    assert_same_state(head, AutoHead.from_pretrained(tmp_path))
