import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from segzoo.precision_state import own_precision


@pytest.fixture(autouse=True)
def new_process():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_another_precision_can_be_chosen_afterwards():
    with own_precision():
        Accelerator(cpu=True, mixed_precision="no")
        with own_precision():  # a training that evaluates
            Accelerator(cpu=True)
        with pytest.raises(ValueError, match="already been initialized"):
            Accelerator(cpu=True, mixed_precision="bf16")
    assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"


def test_an_accelerator_of_the_caller_stays():
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    with own_precision():
        pass
    assert accelerator.mixed_precision == "bf16"
    with pytest.raises(ValueError, match="already been initialized"):
        Accelerator(cpu=True, mixed_precision="no")
