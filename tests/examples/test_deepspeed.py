"""The example with a Trainer under DeepSpeed, on two processes of a CPU; run where DeepSpeed is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_semantic_segmentation_trainer.py"
SETTINGS = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}


@pytest.mark.slow
def test_divided_parameters_are_evaluated_like_whole_ones(scenes, tiny, tmp_path):
    """Five pictures on two processes: one of them runs the model once more than the other."""
    pytest.importorskip("deepspeed")
    found = {}
    for stage in (2, 3):
        settings = tmp_path / f"zero{stage}.json"
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": stage == 3}
        settings.write_text(json.dumps(SETTINGS | {"zero_optimization": zero}))
        output = tmp_path / f"out{stage}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", EXAMPLE]
        command += ["--dataset_name", scenes, "--model_name_or_path", tiny, "--output_dir", output]
        command += ["--crop_size", "32", "--per_device_train_batch_size", "2", "--max_steps", "2"]
        command += ["--save_strategy", "no", "--use_cpu", "--deepspeed", settings]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(list(map(str, command)), check=True, env=environment, timeout=600)
        found[stage] = json.loads((output / "eval_results.json").read_text())
    assert found[3]["eval_mean_iou"] == pytest.approx(found[2]["eval_mean_iou"], rel=1e-3)
    assert found[3]["eval_overall_accuracy"] > 0
