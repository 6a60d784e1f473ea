"""Other models than segzoo's, and the Hub; the script runs inside this process."""

import pytest
from support.hub_server import WRITE_TOKEN, HubServer
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)


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
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        _http.close_session()
        yield server
        _http.close_session()


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
