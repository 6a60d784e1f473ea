"""What does not go with the way of distribution that accelerate is set to is refused before anything is loaded."""

import pytest
from accelerate import FullyShardedDataParallelPlugin

from segzoo import SegZooError
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.run import run_training
from segzoo.training.sharding import check_distribution
from segzoo.training.surroundings import Surroundings

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def options(**changes):
    return RunOptions(**{"output_dir": "never-made", "model_name_or_path": "no-model", **changes})


@pytest.mark.parametrize(
    ("environment", "changes", "recipe", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, {}, "DeepSpeed.*run_semantic_segmentation_trainer"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, {}, "FSDP1.*fsdp_version: 2"),
        (FSDP2, {}, {"ema_decay": 0.9}, "--ema_decay does not go with FSDP2"),
        (FSDP2, {"torch_compile": True}, {}, "--torch_compile"),
        (FSDP2, {"save_trained_only": True}, {"freeze_backbone": True}, "--save_trained_only"),
        (FSDP2, {"memory_format": "channels_last"}, {}, "--memory_format channels_last"),
        (FSDP2, {"do_train": False}, {}, "segzoo evaluate"),
    ],
)
def test_refused(environment, changes, recipe, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SegZooError, match=message):
        run_training(options(**changes), Recipe(**recipe))


@pytest.mark.parametrize("environment", [{}, FSDP2, {"ACCELERATE_USE_FSDP": "false", "FSDP_VERSION": "1"}])
def test_allowed(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check_distribution(options(), Recipe())


def test_every_process_keeps_the_weights_that_it_has_loaded(monkeypatch, tmp_path):
    """Accelerate's own default sends them from the main process, and fails for models with running statistics."""
    for name, value in (FSDP2 | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}).items():
        monkeypatch.setenv(name, value)
    Surroundings(options(output_dir=str(tmp_path), use_cpu=True), None)
    assert not FullyShardedDataParallelPlugin().cpu_ram_efficient_loading
