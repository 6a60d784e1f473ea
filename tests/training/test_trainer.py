import json
import math
import shutil
import weakref

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor, TrainerCallback

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data import Augmentation, SegmentationDataset, build_processor_transform, load_segmentation_dataset
from segzoo.data.scenes import SCENES, write_scenes
from segzoo.errors import SegZooError
from segzoo.metrics import ConfusionMatrix
from segzoo.training import training_transform
from segzoo.training.trainer import (
    SegmentationTrainer,
    SegmentationTrainingArguments,
    check_best_metric,
    find_trainer_checkpoint,
)
from segzoo.weight_hashes import HASHES


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return load_segmentation_dataset(write_scenes(folder, num_train=9, num_validation=5, size=(48, 64)))


@pytest.fixture
def build(rows, tmp_path):
    """Makes a Trainer of a tiny model on scenes; some settings of its arguments, and others of the class."""

    def make(model=None, *, callbacks=(), **settings):
        torch.manual_seed(0)
        if model is None:
            config = SegZooConfig.tiny()
            config = SegZooConfig(**{**config.to_dict(), "id2label": SCENES.id2label, "palette": None})
            model = SegZooForSemanticSegmentation(config)
            processor = SegZooImageProcessor(do_resize=False)
        else:
            processor = SegformerImageProcessor(size={"height": 32, "width": 48})
        transform = training_transform(processor, Augmentation(crop_size=32))
        usual = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        return SegmentationTrainer(
            model,
            SegmentationTrainingArguments(**{**usual, **settings}),
            processor,
            train_dataset=SegmentationDataset(rows["train"], transform, seed=1, num_labels=9),
            eval_dataset=SegmentationDataset(rows["validation"], build_processor_transform(processor), num_labels=9),
            callbacks=callbacks,
        )

    return make


def segformer():
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
    )
    config.id2label = SCENES.id2label
    return SegformerForSemanticSegmentation(config)


def losses(trainer):
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def test_the_scores_are_those_of_one_confusion_matrix_at_the_original_sizes(build, rows):
    trainer = build()
    scores = trainer.evaluate()
    model, processor, confusion = trainer.model.eval(), trainer.processing_class, ConfusionMatrix(9)
    with torch.no_grad():
        for row in rows["validation"]:
            label = np.asarray(row["label"])
            outputs = model(**processor(images=row["image"], return_tensors="pt"))
            confusion.update(
                processor.post_process_semantic_segmentation(outputs, target_sizes=[label.shape])[0], label
            )
    expected = confusion.compute()
    assert scores["eval_mean_iou"] == expected["mean_iou"]
    assert scores["eval_iou_road"] == expected["per_category_iou"][2]
    assert scores["eval_accuracy_road"] == expected["per_category_accuracy"][2]
    assert (
        trainer.evaluation.num_images == 5
        and trainer.state.log_history[-1]["eval_mean_iou"] == scores["eval_mean_iou"]
    )


def test_no_logits_are_kept(build):
    trainer = build(per_device_eval_batch_size=1)
    alive, most = weakref.WeakSet(), 0

    def watch(module, arguments, outputs):
        nonlocal most
        alive.add(outputs.logits)
        most = max(most, len(alive))

    trainer.model.register_forward_hook(watch)
    trainer.evaluate()
    assert most <= 2 and len(alive) <= 1


def test_accumulated_batches_do_not_make_the_gradient_larger(build):
    """Models that take any keyword in forward are taken for such as divide their loss themselves."""
    once = build(segformer(), max_steps=1, max_grad_norm=1e9).train()
    model = segformer()
    trainer = build(
        model, max_steps=1, max_grad_norm=1e9, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    twice = trainer.train()
    assert twice.training_loss == pytest.approx(once.training_loss, rel=0.2)


def test_a_model_of_transformers_is_saved_with_hashes_and_alone(build, tmp_path):
    trainer = build(segformer())
    trainer.save_model()
    folder = tmp_path / "out"
    assert (folder / HASHES).read_text().split()[1] == "model.safetensors"
    trainer.model.save_pretrained(folder, max_shard_size=10_000)  # leaves the whole file, with another hash
    trainer.save_model()
    assert not list(folder.glob("*.index.json")) and not list(folder.glob("model-*"))
    loaded = segzoo.load(folder).model
    assert all(map(torch.equal, loaded.state_dict().values(), trainer.model.state_dict().values()))


class Epochs(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, train_dataloader, **kwargs):
        self.seen.append(train_dataloader.dataset.epoch)


def test_the_epoch_reaches_the_data(build):
    epochs = Epochs()
    build(max_steps=5, callbacks=[epochs]).train()
    assert epochs.seen == [0, 0, 1, 1, 2]  # 9 pictures: two whole batches of 4 an epoch
    # In several processes accelerate does not pass it on; the Trainer itself does.
    trainer = build()
    trainer.state.epoch = 7.0
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    assert trainer.train_dataset.epoch == 7


def test_a_resumed_training_has_the_same_losses(build, tmp_path):
    whole = build(max_steps=5, save_strategy="steps", save_steps=3)
    whole.train()
    checkpoint = shutil.copytree(tmp_path / "out" / "checkpoint-3", tmp_path / "checkpoint-3")
    resumed = build(max_steps=5, output_dir=str(tmp_path / "other"))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 5
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key]), key


def test_a_finished_training_that_is_resumed_takes_no_step_more(build, tmp_path):
    build(max_steps=3, save_strategy="steps", save_steps=3).train()  # in the midst of the second epoch
    again = build(max_steps=3)
    assert again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3")).global_step == 3
    assert list(losses(again)) == [1, 2, 3]


def test_the_best_model_is_the_one_with_the_highest_iou(build):
    trainer = build(
        max_steps=6,
        learning_rate=1e-2,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
    )
    trainer.train()
    measured = [entry["eval_mean_iou"] for entry in trainer.state.log_history if "eval_mean_iou" in entry]
    assert len(measured) == 3 and len(set(measured)) > 1
    assert trainer.state.best_metric == max(measured)
    assert trainer.evaluate()["eval_mean_iou"] == max(measured)


def test_a_loss_that_is_no_number_names_the_pictures(build):
    with pytest.raises(
        SegZooError, match=r"the loss is nan at step \d\. The pictures of this batch: .*scene_\d+\."
    ) as e:
        build(learning_rate=1e30, max_steps=6, max_grad_norm=0).train()
    assert "--learning_rate" in str(e.value)


def test_weights_of_norms_do_not_decay(build):
    trainer = build(weight_decay=0.1)
    decaying, others = trainer.create_optimizer().param_groups
    assert all(parameter.ndim > 1 for parameter in decaying["params"]) and others["weight_decay"] == 0
    assert len(others["params"]) > 10


@pytest.mark.parametrize("wanted", ["loss", "iou_unicorn", "eval_accuracy"])
def test_a_score_that_there_is_not(build, wanted):
    with pytest.raises(
        SegZooError, match=f"--metric_for_best_model {wanted}: evaluation has no such score; choose mean_iou"
    ):
        build(metric_for_best_model=wanted)


def test_a_class_that_never_occurs_is_never_the_best_and_no_error(build):
    model = segformer()
    config = model.config
    config.id2label = {**SCENES.id2label, 9: "unicorn"}
    model = SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.bias.data[9] = -1e9
    settings = {"metric_for_best_model": "iou_unicorn", "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1}
    trainer = build(model, **settings)
    trainer.train()
    (found,) = [entry["eval_iou_unicorn"] for entry in trainer.state.log_history if "eval_mean_iou" in entry]
    assert math.isnan(found) and trainer.state.best_global_step is None


def test_the_best_model_by_one_of_several_data_sets(build, tmp_path):
    args = SegmentationTrainingArguments(output_dir=str(tmp_path), metric_for_best_model="mean_iou")
    with pytest.raises(SegZooError, match="begin with the name of one, such as day_mean_iou"):
        check_best_metric(args, ["road"], parts=["day", "night"])
    args.metric_for_best_model = "night_iou_road"
    check_best_metric(args, ["road"], parts=["day", "night"])
    trainer = build()
    trainer.args.metric_for_best_model = "eval_day_iou_road"
    assert {"eval_day_mean_iou", "eval_day_iou_road"} <= trainer.evaluate({"day": trainer.eval_dataset}).keys()


def test_half_precision_weights_are_refused(build):
    with pytest.raises(SegZooError, match="use --bf16 or --fp16"):
        build(bf16_full_eval=True)


def test_label_smoothing_is_refused(build):
    with pytest.raises(SegZooError, match="--label_smoothing_factor: .* leave it at 0"):
        build(label_smoothing_factor=0.1)


@pytest.mark.parametrize("length", [{"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 3}])
def test_fewer_pictures_than_a_batch(build, length):
    trainer = build(per_device_train_batch_size=16, **length)
    with pytest.raises(
        SegZooError, match="has 9 pictures, fewer than one batch of 16; lower --per_device_train_batch"
    ):
        trainer.train()
    trainer = build(per_device_train_batch_size=16, dataloader_drop_last=False, max_steps=1)
    assert trainer.train().global_step == 1


def test_predict_names_what_there_is_in_its_place(build):
    trainer = build()
    with pytest.raises(SegZooError, match="keeps no logits.*metric_key_prefix='test'.*segzoo.predict"):
        trainer.predict(trainer.eval_dataset)
    assert trainer.evaluate(trainer.eval_dataset, metric_key_prefix="test")["test_mean_iou"] >= 0


def test_several_data_sets(build, rows):
    trainer = build()
    parts = {"all": trainer.eval_dataset, "again": trainer.eval_dataset}
    scores = trainer.evaluate(parts)
    assert scores["eval_all_mean_iou"] == scores["eval_again_mean_iou"] == trainer.evaluate()["eval_mean_iou"]


def test_the_card_of_a_training_without_evaluation(build, tmp_path):
    trainer = build()
    trainer.train()
    trainer.create_model_card(model_name="Streets", dataset="scenes", synthetic=True, settings={"crop_size": "32 32"})
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "# Streets" in card
        and "Synthetic data" in card
        and "| crop_size | 32 32 |" in card
        and "| steps | 2 |" in card
    )
    assert "model-index" not in card


def test_half_checkpoints_are_skipped(tmp_path):
    assert find_trainer_checkpoint(tmp_path / "nothing") is None
    for step in (5, 40):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text(json.dumps({"global_step": 5}))
    (tmp_path / "checkpoint-40" / "trainer_state.json").write_text('{"global_st')
    with pytest.warns(UserWarning, match="checkpoint-40 is not whole and is skipped"):
        assert find_trainer_checkpoint(tmp_path).name == "checkpoint-5"


@pytest.mark.parametrize("earlier_trainings", [0, 1])
def test_steps_in_which_no_pixel_counts_end_the_training(build, earlier_trainings):
    trainer = build(max_steps=5, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    for _ in range(earlier_trainings):
        trainer.train()
    trainer.max_empty_steps, collate = 2, trainer.data_collator

    def without_labels(items):
        batch = collate(items)
        batch["labels"].fill_(255)
        return batch

    trainer.data_collator = without_labels
    with pytest.raises(SegZooError, match="no pixel of any label counts in steps 1 to 2"):
        trainer.train()


def test_a_batch_in_which_no_pixel_counts_is_passed_over(build):
    trainer = build(segformer(), max_steps=3)
    trainer.accelerator.even_batches, collate, seen = False, trainer.data_collator, []

    def second_without_labels(items):
        batch = collate(items)
        if len(seen) == 1:
            batch["labels"].fill_(255)
        seen.append(1)
        return batch

    trainer.data_collator = second_without_labels
    trainer.train()
    history = losses(trainer)
    assert history[2] == 0 and history[1] > 0 and history[3] > 0
