"""Other models than segzoo's, and the Hub; the script runs inside this process."""

import json

import pytest
import timm
import torch
from safetensors.torch import save
from support.hub_server import WRITE_TOKEN, HubServer, hub_of_this_process
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from segzoo.data.scenes import SCENES


def arguments(**options):
    words = {
        "crop_size": 32,
        "per_device_train_batch_size": 4,
        "max_train_steps": 2,
        "eval_steps": 0,
        "dataloader_num_workers": 0,
        **options,
    }
    return [str(word) for name, value in words.items() for word in (f"--{name}", value)]


def test_a_model_of_transformers(script, scenes, tmp_path):
    config = SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        num_labels=3,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    processor = SegformerImageProcessor(size={"height": 32, "width": 48}, do_reduce_labels=True)
    processor.save_pretrained(tmp_path / "model")
    argv = arguments(dataset_name=scenes, model_name_or_path=tmp_path / "model", output_dir=tmp_path / "out")
    assert script.main(argv) == 0
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert isinstance(model, SegformerForSemanticSegmentation) and model.config.num_labels == 9
    assert "images resized to 32x48" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine that this process uses."""
    with HubServer() as server, hub_of_this_process(monkeypatch, server.endpoint, tmp_path):
        yield server


def test_the_model_is_pushed_without_its_checkpoints(script, scenes, tiny, tmp_path, hub):
    argv = arguments(
        dataset_name=scenes,
        model_name_or_path=tiny,
        output_dir=tmp_path / "out",
        checkpointing_steps=1,
        hub_model_id="tester/scenes",
        hub_token=WRITE_TOKEN,
    )
    assert script.main([*argv, "--push_to_hub"]) == 0
    pushed = {name for name in hub.files("tester/scenes") if name != ".gitattributes"}
    assert pushed >= {"config.json", "model.safetensors", "README.md", "figures/samples.png", "all_results.json"}
    assert not [name for name in pushed if name.startswith("step_")]
    assert (tmp_path / "out" / "step_2").is_dir()
    assert WRITE_TOKEN not in "".join(
        path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".md", ".jsonl")
    )


def test_a_short_name_begins_with_published_weights_and_the_card_says_so(script, scenes, tmp_path, hub, capsys):
    state = timm.create_model("mobilenetv2_100").state_dict()
    hub.publish("timm/mobilenetv2_100.ra_in1k", {"model.safetensors": save(state)})
    (tmp_path / "names.json").write_text(json.dumps([*SCENES.classes, "unicorn"]))
    argv = arguments(
        dataset_name=scenes,
        classes=tmp_path / "names.json",
        backbone="mobilenetv2",
        head="fcn",
        head_channels=8,
        optimizer="sgd",
        learning_rate=1e-9,
        cache_dir=tmp_path / "cache",
        output_dir=tmp_path / "out",
    )
    assert script.main(argv) == 0
    said = capsys.readouterr().out
    assert "backbone: mobilenetv2 begins with the weights of timm/mobilenetv2_100.ra_in1k" in said
    assert "never showed unicorn in its first epoch" in said and "unicorn 0 %" in said, "two steps are the epoch"
    assert (
        "| backbone's first weights | timm/mobilenetv2_100.ra_in1k |" in (tmp_path / "out" / "README.md").read_text()
    )
    assert "never showed unicorn" in (tmp_path / "out" / "report.html").read_text()
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert torch.allclose(model.backbone.stem.conv.weight, state["conv_stem.weight"], atol=1e-6)
    # The same classes in another order: the rows follow.
    (tmp_path / "names.json").write_text(json.dumps(["unicorn", *SCENES.classes]))
    argv = arguments(
        dataset_name=scenes,
        classes=tmp_path / "names.json",
        model_name_or_path=tmp_path / "out",
        optimizer="sgd",
        learning_rate=1e-9,
        output_dir=tmp_path / "again",
    )
    assert script.main(argv) == 0
    assert "classifier: the 10 classes are the model's in another order" in capsys.readouterr().out
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "again").decode_heads[0].classifier
    assert torch.allclose(again.weight, model.decode_heads[0].classifier.weight.roll(1, dims=0), atol=1e-6)
