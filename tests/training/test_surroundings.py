import pytest
import torch

from segzoo.errors import SegZooError
from segzoo.precision_state import own_precision
from segzoo.training import surroundings
from segzoo.training.options import RunOptions
from segzoo.training.surroundings import Surroundings


@pytest.mark.parametrize(("asked", "expected"), [("auto", False), ("contiguous", False), ("channels_last", True)])
def test_the_memory_format_on_a_cpu(tmp_path, asked, expected):
    here = Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True, memory_format=asked), None)
    assert here.channels_last is expected and here.is_main and here.measures_format is (asked == "auto")
    assert here.memory_format == (torch.channels_last if expected else torch.contiguous_format)


def test_a_precision_that_a_cpu_has_not_is_told_in_a_line(tmp_path):
    """Accelerate takes it there, and computes in float32."""
    with (
        own_precision(),
        pytest.raises(SegZooError, match=r"--mixed_precision fp16: cannot be used here \(.*take another") as error,
    ):
        Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True), "fp16")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_is_bf16_where_the_processor_computes_in_it(tmp_path, monkeypatch, in_hardware, expected):
    """Emulated, the quickstart would take an hour."""
    monkeypatch.setattr(surroundings, "has_bfloat16", lambda: in_hardware)
    assert surroundings.chosen_precision(torch.device("cpu")) == expected
    assert surroundings.chosen_precision(torch.device("meta")) == "no"
    with own_precision():
        here = Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True), "auto")
        assert here.accelerator.mixed_precision == expected
