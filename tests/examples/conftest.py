import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
from support.forked import run_python
from support.tiny_folders import make_model, make_scenes

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def script():
    """The script as a module, to be run inside this process."""
    spec = importlib.util.spec_from_file_location("script_under_test", EXAMPLES / "run_semantic_segmentation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def run_script(scenes, tiny):
    """Runs ``segzoo train`` in a process of its own: a few steps on the scenes unless the options say otherwise."""

    def run(output_dir, options=None, flags=(), *, launcher=()):
        words = {
            "--dataset_name": scenes,
            "--model_name_or_path": tiny,
            "--output_dir": output_dir,
            "--crop_size": "32",
            "--per_device_train_batch_size": 4,
            "--max_train_steps": 4,
            "--learning_rate": 1e-3,
            "--logging_steps": 1,
            "--eval_steps": 0,
            "--dataloader_num_workers": 0,
            **(options or {}),
        }
        command = ["-m", "segzoo", "train", *flags]
        for name, value in words.items():
            if value is not None:
                command += [name, *(value if isinstance(value, tuple) else (value,))]
        # One thread: the same sums in the same order, and room for other tests.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        if not launcher:
            return run_python(*command, env=env, timeout=240)
        command = [str(word) for word in (*launcher, *command)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)

    return run
