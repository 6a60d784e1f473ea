"""What of a training between its steps is scored."""

import json

import pytest
from support.script_process import ScriptRun
from support.tiny_folders import make_model, make_scenes

SCRIPT = """
import json
import torch
from segzoo.training.arguments import parse_arguments
from segzoo.training.ema import WeightAverage
from segzoo.training.inputs import prepare_inputs
from segzoo.training.surroundings import Surroundings
from segzoo.training.trained_model import TrainedModel

def main(argv):
    options, recipe = parse_arguments(argv)
    here = Surroundings(options, "no")
    inputs = prepare_inputs(options, recipe, here)
    average = None if recipe.ema_decay is None else WeightAverage(inputs.model, recipe.ema_decay)
    scored = inputs.model if average is None else average.averaged
    for name, buffer in scored.named_buffers():
        if name.endswith("running_mean") and here.accelerator.process_index:
            buffer.add_(torch.randn_like(buffer), alpha=10)
    evaluation = TrainedModel(inputs.model, average, options, inputs, here).score()
    here.say("matrix " + json.dumps(evaluation.confusion.matrix.tolist()))
    here.accelerator.end_training()
    return 0
"""


@pytest.mark.parametrize("average", [{}, {"ema_decay": 0.5}])
def test_every_process_scores_the_main_ones_model(tmp_path, average):
    """Norms that are not synchronised leave each process statistics of its own, of the weights and of their average."""
    (tmp_path / "script.py").write_text(SCRIPT)
    options = {
        "model_name_or_path": make_model(tmp_path / "model"),
        "dataset_name": make_scenes(tmp_path / "data"),
        "output_dir": tmp_path / "out",
        "do_eval": True,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "dataloader_num_workers": 0,
        **average,
    }
    matrices = []
    for processes in (1, 2):
        logs = tmp_path / str(processes)
        run = ScriptRun(options, logs, processes=processes, script=tmp_path / "script.py")
        assert run.wait() in (0, [0, 0]), run.stderr
        (line,) = (line for line in run.stdout.splitlines() if line.startswith("matrix "))
        matrices.append(json.loads(line.removeprefix("matrix ")))
    assert matrices[0] == matrices[1] and any(map(any, matrices[0]))
