import platform

import torch

import segzoo
from segzoo.training.environment import hardware_facts, software_versions


def test_versions():
    versions = software_versions()
    assert versions["Python"] == platform.python_version()
    assert versions["segzoo"] == segzoo.__version__
    assert torch.__version__.startswith(versions["torch"].partition("+")[0])


def test_hardware_names_no_machine():
    facts = hardware_facts("cpu", num_processes=3)
    assert facts["device"] == "CPU" and facts["processes"] == "3"
    assert f"{torch.get_num_threads()} threads" in facts["processor"]
    assert platform.node() not in " ".join(facts.values())
