"""What every registered decode head must do."""

import pytest
import torch
from support.contract import (
    assert_close,
    assert_config_round_trip,
    assert_gradients,
    assert_same_state,
    settle,
)
from transformers import AutoConfig

from segzoo import AutoHead
from segzoo.auto import HEADS
from segzoo.errors import SegZooError
from segzoo.heads import HeadOutput
from segzoo.layers import resize
from segzoo.losses import CrossEntropyLoss, DiceLoss, build_loss

pytestmark = pytest.mark.parametrize("model_type", sorted(HEADS))
CHANNELS = [8, 16, 32, 64]


def build(model_type, **options):
    config = HEADS[model_type].config.tiny()
    for name, value in options.items():
        setattr(config, name, value)
    return settle(AutoHead.from_config(config)).eval()


def maps(batch=2, height=16, width=24):
    return [torch.randn(batch, c, -(-height // 2**i), -(-width // 2**i)) for i, c in enumerate(CHANNELS)]


def test_registered(model_type):
    config_class, model_class = HEADS[model_type].config, HEADS[model_type].model
    assert isinstance(AutoConfig.for_model(model_type), config_class)
    assert type(AutoHead.from_config(config_class.tiny())) is model_class


def test_config_round_trip(model_type, tmp_path):
    config = HEADS[model_type].config.tiny()
    config.num_labels = 9
    assert_config_round_trip(config, tmp_path)
    assert type(config).from_pretrained(tmp_path).num_labels == 9
    assert "id2label" not in (tmp_path / "config.json").read_text()


def test_unknown_option_is_named(model_type):
    with pytest.raises(SegZooError, match="no_such_option"):
        HEADS[model_type].config(no_such_option=1)


def test_needs_channels(model_type):
    config = HEADS[model_type].config.tiny()
    config.in_channels = None
    with pytest.raises(SegZooError, match="in_channels"):
        AutoHead.from_config(config)


def test_save_and_load_alone(model_type, tmp_path):
    head = build(model_type)
    head.save_pretrained(tmp_path)
    loaded = AutoHead.from_pretrained(tmp_path).eval()
    assert_same_state(head, loaded)
    features = maps()
    assert_close(loaded(features).logits, head(features).logits)


@pytest.mark.parametrize("size", [(16, 24), (19, 27), (9, 7)])
def test_dense_logits_at_any_size(model_type, size):
    head = build(model_type)
    logits = head(maps(2, *size)).logits
    assert logits.shape[:2] == (2, head.config.num_labels)
    assert logits.ndim == 4 and torch.isfinite(logits).all()


def test_batch_equals_single(model_type):
    head, features = build(model_type), maps(3)
    with torch.no_grad():
        together = head(features).logits
        for i in range(3):
            assert_close(together[i : i + 1], head([m[i : i + 1] for m in features]).logits)


def test_gradients_reach_every_parameter(model_type):
    head = build(model_type).train()
    output = head(maps())
    labels = torch.randint(0, head.config.num_labels, (2, 64, 96))
    sum(head.compute_loss(output, labels, 255).values()).backward()
    assert_gradients(head)


def test_losses_are_summed_by_name(model_type):
    features, labels = maps(), torch.randint(0, 5, (2, 64, 96))
    head = build(model_type, dropout=0.0)
    one = head.compute_loss(head(features), labels, 255)
    assert set(one) == {"cross_entropy"}
    head.set_losses([{"type": "cross_entropy", "weight": 0.4}, CrossEntropyLoss(weight=2.0), DiceLoss(weight=3.0)])
    parts = head.compute_loss(head(features), labels, 255)
    assert set(parts) == {"cross_entropy", "dice"}
    assert_close(parts["cross_entropy"], 2.4 * one["cross_entropy"])
    logits = resize(head(features).logits, (64, 96), align_corners=head.config.align_corners)
    assert_close(parts["dice"], DiceLoss(weight=3.0)(logits, labels))


def test_losses_are_kept_in_the_config(model_type, tmp_path):
    losses = [{"type": "cross_entropy", "ohem": {"threshold": 0.7, "min_kept": 50}}, {"type": "lovasz", "weight": 0.5}]
    head = build(model_type)
    head.set_losses(losses)
    head.save_pretrained(tmp_path)
    loaded = AutoHead.from_pretrained(tmp_path)
    assert loaded.config.losses == losses
    assert loaded.losses == tuple(build_loss(loss) for loss in losses)


@pytest.mark.parametrize("losses", [[], "dice", [{"type": "dyce"}], [{"type": "dice", "class_weights": [1.0]}]])
def test_wrong_losses_change_nothing(model_type, losses):
    head = build(model_type)
    with pytest.raises(SegZooError):
        head.set_losses(losses)
    assert head.config.losses == [{"type": "cross_entropy"}] and head.losses == (CrossEntropyLoss(),)


def test_only_ignored_labels_give_zero_loss(model_type):
    head = build(model_type).train()
    for losses in ([{"type": "cross_entropy"}], [{"type": "cross_entropy", "average": "valid"}, {"type": "dice"}]):
        head.set_losses(losses)
        loss = sum(head.compute_loss(head(maps()), torch.full((2, 64, 96), 255), 255).values())
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())


def test_half_precision_logits_are_resized_in_float32(model_type):
    head, labels = build(model_type), torch.randint(0, 5, (2, 64, 96))
    logits = head(maps()).logits.bfloat16()
    half = head.compute_loss(HeadOutput(logits=logits), labels, 255)["cross_entropy"]
    assert torch.equal(half, head.compute_loss(HeadOutput(logits=logits.float()), labels, 255)["cross_entropy"])


def test_bfloat16_autocast(model_type):
    head, features = build(model_type), maps()
    with torch.no_grad():
        full = head(features).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = head(features).logits
    assert_close(half.float(), full, 0.05)


def test_compiles_as_one_graph(model_type):
    head, features = build(model_type), maps()
    with torch.no_grad():
        expected = head(features).logits
        assert_close(torch.compile(head, backend="aot_eager", fullgraph=True)(features).logits, expected)


def test_wrong_maps_are_named(model_type):
    head = build(model_type)
    with pytest.raises(SegZooError, match="in_index and in_channels"):
        head([m[:, :3] for m in maps()])
    with pytest.raises(SegZooError, match=type(head).__name__):
        head(maps()[:1])


def test_one_image_pooled_to_a_point_cannot_be_normalised_in_training(model_type):
    head = build(model_type).train()
    pools = hasattr(head, "pyramid")
    if not pools:
        head(maps(1))
        return
    with pytest.raises(SegZooError, match="batch of at least 2"):
        head(maps(1))
