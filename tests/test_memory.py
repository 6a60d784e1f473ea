import subprocess
import sys

import pytest

import segzoo
from segzoo import memory

CODE = f"""
import sys, types
import numpy as np
sys.modules["segzoo"] = types.ModuleType("segzoo")  # without the models, which take seconds to import
sys.modules["segzoo"].__path__ = {list(segzoo.__path__)}
from segzoo.memory import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
assert sys.argv[1] == "no" or keep_freed_memory()
before = resident()
block = np.ones(2**26)  # 512 MiB
del block
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_stays_with_the_process():
    kept, given_back = (
        float(subprocess.run([sys.executable, "-c", CODE, word], capture_output=True, text=True, check=True).stdout)
        for word in ("yes", "no")
    )
    assert kept > 400 and given_back < 100


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux says of its memory")
def test_free_memory_of_the_machine_and_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine = memory.free_memory()
    assert 2**20 < machine < 2**50
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 200000\n")
    assert memory.free_memory() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 2**20
