import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np
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
