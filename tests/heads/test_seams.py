"""What complex heads need from the model: own outputs, a previous head, further losses and outputs."""

import pytest
import torch
from support.contract import assert_close, assert_gradients, assert_same_state, settle
from support.heads import EdgeHead, EdgeHeadConfig, RefiningHead, RefiningHeadConfig, registered
from transformers import AutoModelForSemanticSegmentation

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, Head, HeadConfig

LABELS = 5


@pytest.fixture(autouse=True)
def heads():
    with registered((EdgeHeadConfig, EdgeHead), (RefiningHeadConfig, RefiningHead)):
        yield


def build(decode_heads=None, auxiliary_heads=()) -> SegZooForSemanticSegmentation:
    config = SegZooConfig(
        backbone_config=ResNetConfig.tiny(),
        decode_head_configs=decode_heads or [FCNHeadConfig(channels=8)],
        auxiliary_head_configs=auxiliary_heads,
        num_labels=LABELS,
    )
    return settle(SegZooForSemanticSegmentation(config)).eval()


def batch():
    return torch.randn(2, 3, 64, 96), torch.randint(0, LABELS, (2, 64, 96))


class TestOwnOutputs:
    def test_a_head_with_its_own_targets_keeps_its_outputs(self, tmp_path):
        model = build(auxiliary_heads=[EdgeHeadConfig(in_index=[0], channels=8), FCNHeadConfig(channels=8)])
        assert [head.classifier.out_channels for head in model.auxiliary_heads] == [2, LABELS]
        images, labels = batch()
        output = model.train()(images, labels=labels)
        assert set(output.losses) == {"decode_0.cross_entropy", "auxiliary_0.edges", "auxiliary_1.cross_entropy"}
        output.losses["auxiliary_0.edges"].backward()
        assert_gradients(model.auxiliary_heads[0])
        model.save_pretrained(tmp_path)
        assert_same_state(model, AutoModelForSemanticSegmentation.from_pretrained(tmp_path))

    def test_new_classes_leave_them_alone(self, tmp_path):
        build(auxiliary_heads=[EdgeHeadConfig(in_index=[0], channels=8)]).save_pretrained(tmp_path)
        model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
        assert model.decode_heads[0].classifier.out_channels == 3
        assert model.auxiliary_heads[0].classifier.out_channels == 2

    def test_classes_that_are_not_the_models_are_kept_and_not_trained(self, tmp_path):
        other = FCNHeadConfig(channels=8, own_outputs=150, losses=[{"type": "dice", "class_weights": [1.0] * 150}])
        model = build(auxiliary_heads=[other, FCNHeadConfig(channels=8)])
        ran = []
        model.auxiliary_heads[0].register_forward_hook(lambda *_: ran.append(True))
        images, labels = batch()
        output = model(images, labels=labels)
        assert set(output.losses) == {"decode_0.cross_entropy", "auxiliary_1.cross_entropy"} and not ran
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
        assert_same_state(model, loaded)
        assert loaded.auxiliary_heads[0].classifier.out_channels == 150

    def test_the_last_decode_head_has_the_models_classes(self):
        with pytest.raises(SegZooError, match="own_outputs=7"):
            build([FCNHeadConfig(channels=8, own_outputs=7)])

    def test_none_is_no_number(self):
        with pytest.raises(SegZooError, match="own_outputs=0"):
            FCNHeadConfig(own_outputs=0)


class TestCascade:
    heads = (FCNHeadConfig(channels=8, in_index=[2], dropout=0.0), RefiningHeadConfig(channels=8, dropout=0.0))

    def test_the_head_before_is_read(self):
        model = build(self.heads)
        images, _ = batch()
        maps, _ = model.forward_maps(images)
        first = model.decode_heads[0](maps)
        expected = model.decode_heads[1](maps, previous=first).logits
        logits = model(images).logits
        assert_close(logits, expected)
        assert logits.shape == first.logits.shape and not torch.allclose(logits, first.logits)

    def test_the_last_loss_reaches_the_first_head(self):
        model = build(self.heads).train()
        images, labels = batch()
        model(images, labels=labels).losses["decode_1.cross_entropy"].backward()
        assert_gradients(model.decode_heads[0])

    @pytest.mark.parametrize(("training", "times"), [(True, 2), (False, 1)])
    def test_in_training_the_first_runs_once_more_with_other_dropped_channels(self, training, times):
        model = build([FCNHeadConfig(channels=8, in_index=[2], dropout=0.5), RefiningHeadConfig(channels=8)])
        given, own = [], []
        model.decode_heads[0].register_forward_hook(lambda module, args, output: own.append(output.logits))
        model.decode_heads[1].register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs["previous"].logits), with_kwargs=True
        )
        images, labels = batch()
        model.train(training)(images, labels=labels)
        assert len(own) == times and torch.equal(given[0], own[-1])
        assert torch.equal(own[0], own[-1]) != training

    @pytest.mark.parametrize("place", ["decode_heads", "auxiliary_heads"])
    def test_nothing_before_it_is_refused(self, place):
        with pytest.raises(SegZooError, match="RefiningHeadConfig reads the output of the decode head before it"):
            build(**{place: [RefiningHeadConfig(channels=8)]})

    def test_windows(self):
        model = build(self.heads)
        images, _ = batch()
        logits = model(images, window_size=(64, 64), window_stride=(32, 32)).logits
        assert logits.shape == (2, LABELS, 64, 96)

    def test_gradients_with_a_head_before(self):
        config = RefiningHeadConfig(channels=8, in_channels=[32], num_labels=LABELS)
        head = settle(RefiningHead(config)).train()
        inputs = config.tiny_inputs()
        labels = torch.randint(0, LABELS, (2, 64, 96))
        sum(head.compute_loss(head(**inputs), labels, 255).values()).backward()
        assert_gradients(head)


@pytest.mark.parametrize("training", [True, False])
def test_losses_made_from_tensors_of_the_output(training):
    model = build(TestCascade.heads).train(training)
    images, labels = batch()
    output = model(images, labels=labels)
    assert set(output.losses) == {"decode_0.cross_entropy", "decode_1.cross_entropy", "decode_1.presence"}
    assert_close(output.loss, sum(output.losses.values()))


def test_fields_that_the_models_output_has_too_are_passed_on():
    model = build(TestCascade.heads)
    images, labels = batch()
    output = model(images, labels=labels)
    assert_close(output.masks_queries_logits, output.logits.sigmoid())
    assert "presence" not in output and output.class_queries_logits is None
    assert list(output) == ["loss", "losses", "logits", "masks_queries_logits"]


def test_a_head_without_features_says_so():
    class Empty(Head):
        pass

    head = Empty(HeadConfig(in_channels=[8], in_index=[0], channels=8))
    with pytest.raises(SegZooError, match="Empty has neither"):
        head([torch.randn(1, 8, 4, 4)])
