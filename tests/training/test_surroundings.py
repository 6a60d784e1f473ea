import pytest
import torch

from segzoo.errors import SegZooError
from segzoo.training.options import RunOptions
from segzoo.training.surroundings import Surroundings


@pytest.mark.parametrize(("asked", "expected"), [(None, False), (True, True)])
def test_the_memory_format_on_a_cpu(tmp_path, asked, expected):
    """In float32 channels-last is no gain there."""
    here = Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True, channels_last=asked), None)
    assert here.channels_last is expected and here.is_main
    assert here.memory_format == (torch.channels_last if expected else torch.contiguous_format)


def test_a_precision_that_a_cpu_has_not_is_told_in_a_line(tmp_path):
    with pytest.raises(SegZooError, match=r"--mixed_precision fp16: cannot be used here \(.*take another") as error:
        Surroundings(RunOptions(output_dir=str(tmp_path), use_cpu=True), "fp16")
    assert "\n" not in str(error.value)
