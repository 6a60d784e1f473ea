"""What SegmentationTrainer uploads: real processes, and a Hub on loopback."""

import os

from huggingface_hub import ModelCard
from support.forked import run_python
from support.hub_server import HubServer

PROGRAM = """
import sys
from pathlib import Path
import pytest
from support.hub_server import hub_of_this_process
patches = pytest.MonkeyPatch()
hub_of_this_process(patches, sys.argv[1], Path("home")).__enter__()
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from segzoo.data import Augmentation, SegmentationDataset, build_processor_transform, load_segmentation_dataset
from segzoo.data.scenes import SCENES, write_scenes
from segzoo.training import training_transform
from segzoo.training.trainer import SegmentationTrainer, SegmentationTrainingArguments

rows = load_segmentation_dataset(write_scenes("data", num_train=4, num_validation=2, size=(48, 64)))
config = SegformerConfig(
    depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
)
config.id2label = SCENES.id2label
SegformerForSemanticSegmentation(config).push_to_hub("tester/old")
model = SegformerForSemanticSegmentation.from_pretrained("tester/old")
processor = SegformerImageProcessor(size={"height": 32, "width": 48})
trainer = SegmentationTrainer(
    model,
    SegmentationTrainingArguments(
        output_dir="out", use_cpu=True, per_device_train_batch_size=2, max_steps=2, save_steps=1, disable_tqdm=True,
        push_to_hub=True, hub_model_id="tester/new", hub_strategy="every_save", hub_always_push=True, report_to="none",
    ),
    processor,
    train_dataset=SegmentationDataset(
        rows["train"], training_transform(processor, Augmentation(crop_size=32)), seed=1, num_labels=9
    ),
    eval_dataset=SegmentationDataset(rows["validation"], build_processor_transform(processor), num_labels=9),
)
trainer.train()
trainer.evaluate()
trainer.push_to_hub(dataset_tags="tester/scenes", dataset="Scenes", license="mit", tags="streets", language="en")
"""


def test_cards_of_a_fine_tuned_model_of_transformers(tmp_path):
    with HubServer() as hub:
        environment = os.environ | hub.environment(tmp_path / "home")
        done = run_python("-c", PROGRAM, hub.endpoint, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        revisions = [
            files["README.md"].content.decode()
            for files in hub.repositories["tester/new"].commits.values()
            if "model.safetensors" in files
        ]
        last = hub.files("tester/new")["README.md"].decode()
    assert len(revisions) > 1  # those while it trained too have a card
    for text in (*revisions, last):
        data = ModelCard(text).data
        assert (data.library_name, data.base_model) == ("transformers", "tester/old")
        assert "SegformerForSemanticSegmentation" in text and "segzoo" not in (data.tags or [])
        assert "import segzoo" not in text and "generated automatically" not in text
    data = ModelCard(last).data
    assert (data.datasets, data.license) == (["tester/scenes"], "mit")
    assert "streets" in data.tags and data.eval_results[0].dataset_type == "tester/scenes"
