import pytest
from support.script_process import ScriptRun
from support.tiny_folders import make_model, make_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def start(scenes, tiny, tmp_path):
    """Starts ``segzoo train`` in a process of its own: a few steps on the scenes unless the options say otherwise."""

    def start(**options):
        words = {"dataset_name": scenes, "model_name_or_path": tiny, "crop_size": 32, "per_device_train_batch_size": 4}
        words |= {"max_train_steps": 4, "learning_rate": 1e-3, "logging_steps": 1, "eval_steps": 0}
        words |= {"dataloader_num_workers": 0, "output_dir": tmp_path / "out"}
        return ScriptRun({**words, **options}, tmp_path / "logs")

    return start
