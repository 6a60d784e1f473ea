"""No memory, processes or open files left: one line with the cause and the fix, and weights stay as they are."""

import contextlib
import ctypes
import gc
import io
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.small_disk import in_child

from segzoo.commands import cli
from segzoo.data.loader import Loader
from segzoo.errors import SegZooError
from segzoo.images.reading import CorruptImageError, open_picture
from segzoo.shortages import shortage_of

resource = pytest.importorskip("resource")
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are as on Linux")


@pytest.fixture(scope="module")
def large(scenes, tmp_path_factory):
    """The scenes with one picture of 243 MB for each part: more than the process may still hold of what it has freed."""
    data = shutil.copytree(scenes, tmp_path_factory.mktemp("large") / "data")
    for split in ("train", "validation"):
        Image.fromarray(np.zeros((9000, 9000, 3), np.uint8)).save(data / "images" / split / "zz.png")
        Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(data / "annotations" / split / "zz.png")
    return data


def commands(data, model, out, workers=0):
    """A command line of each command that reads pictures."""
    training = ["train", "--dataset_name", data, "--model_name_or_path", model, "--crop_size", 4000]
    training += ["--per_device_train_batch_size", 2, "--max_train_steps", 2, "--output_dir", out / "train"]
    return {
        "check": ["data", "check", data, "--num_workers", workers],
        "predict": ["predict", data / "images" / "validation" / "zz.png", "--model", model, "--output", out / "p"],
        "evaluate": ["evaluate", model, data, "--split", "validation", "--num_workers", workers],
        "train": [*training, "--dataloader_num_workers", workers],
    }


def run_limited(limit, words):
    """Exit status and stderr of a command in a process of its own; ``limit`` sets its limits."""

    import datasets  # noqa: F401 - the limit is for what comes after the imports

    def child():
        os.environ["ACCELERATE_USE_CPU"] = "true"
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            limit()
            code = cli.main([*map(str, words)])
        return code, printed.getvalue()

    gc.collect()  # loaders of earlier tests would be cleaned up, with words, in the child
    return in_child(child, timeout=120)


def little_memory():
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier tests have freed
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) for line in status if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + 40 * 2**20,) * 2)


def few_files(left=0):
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left,) * 2)


@linux
@pytest.mark.parametrize(
    "command", ["predict", *(pytest.param(c, marks=pytest.mark.slow) for c in ("check", "evaluate", "train"))]
)
def test_little_memory(large, tiny, tmp_path, command):
    before = (tiny / "model.safetensors").read_bytes()
    code, printed = run_limited(little_memory, commands(large, tiny, tmp_path)[command])
    assert code == 1, printed
    last = printed.splitlines()[-1]
    assert "error: out of memory (" in last and "lower the batch size" in last, printed
    assert "Traceback" not in printed, printed
    assert (tiny / "model.safetensors").read_bytes() == before


@linux
@pytest.mark.parametrize("command", [pytest.param("evaluate", marks=pytest.mark.slow), "train"])
def test_few_open_files(scenes, tiny, tmp_path, command):
    words = commands(scenes, tiny, tmp_path, workers=2)[command]
    code, printed = run_limited(lambda: few_files(8), [32 if word == 4000 else word for word in words])
    assert code == 1, printed
    last = printed.splitlines()[-1]
    assert "error: " in last and "out of open files" in last and "ulimit -n" in last, printed
    assert "Traceback" not in printed, printed


class Killed(torch.utils.data.Dataset):
    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
        return torch.zeros(4)


@linux
def test_a_loading_process_that_the_kernel_kills():
    def child():  # torch's handler of the signal may raise anywhere in the process, also after this test
        try:
            list(Loader(Killed(), [[0], [1], [2], [3]], collate=torch.stack, num_workers=1))
        except RuntimeError as error:
            return shortage_of(error)

    # torch says one or the other, as its signal handler or its queue is faster
    words = ("is killed by signal: Killed", "exited unexpectedly")
    start = tuple(f"a process that loads data {said}; if memory ran out: lower" for said in words)
    assert in_child(child).startswith(start)


@linux
@pytest.mark.skipif(os.getuid() != 0, reason="needs a user without processes of its own")
def test_no_more_processes():
    def child():
        import multiprocessing.synchronize  # noqa: F401  the user below may not be able to read Python's own files

        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.setuid(64321)  # root has no limit
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            try:
                list(Loader(Killed(), [[0], [1]], collate=torch.stack, num_workers=2))
            except OSError as error:
                return shortage_of(error), printed.getvalue()

    line, printed = in_child(child)
    assert line.startswith("out of processes or threads (") and "lower the number of loading processes" in line
    assert "Traceback" not in printed, printed


def test_a_batch_that_cannot_be_sent_does_not_hang():
    class Unsent:
        def __reduce__(self):
            raise OSError(24, "Too many open files")

    class Rows(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return Unsent()

    with pytest.raises(OSError, match="Too many open files") as error:
        list(Loader(Rows(), [[0]], collate=list, num_workers=1))
    assert shortage_of(error.value).startswith("out of open files (")


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (MemoryError(), "out of memory (MemoryError); "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory (DefaultCPU"),
        (ImportError("a.so: failed to map segment from shared object"), "out of memory (a.so"),
        (OSError(12, "Cannot allocate memory"), "out of memory ("),
        (RuntimeError("could not create a primitive"), "out of memory (could not create a primitive)"),
        (RuntimeError("can't start new thread"), "out of processes or threads ("),
        (BlockingIOError(11, "Resource temporarily unavailable"), "out of processes or threads ("),
        (RuntimeError("received 0 items of ancdata"), "out of open files ("),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "out of GPU memory (CUDA out of memory. Tried)"),
    ],
)
def test_words_of_libraries(error, start):
    assert shortage_of(error).startswith(start) and "\n" not in shortage_of(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"),
        RuntimeError("could not create a primitive descriptor"),
        FileNotFoundError(2, "none", "a"),
        SegZooError(),
    ],
)
def test_other_errors(error):
    assert shortage_of(error) is None


def test_the_cause_of_an_error_of_ours_counts():
    error = SegZooError("model.safetensors cannot be read.")
    error.__cause__ = OSError(24, "Too many open files")
    assert shortage_of(error).startswith("model.safetensors cannot be read; out of open files: raise the limit")


@linux
def test_a_picture_is_not_called_broken(scenes):
    """--max_corrupt must not pass over it."""
    picture = sorted((scenes / "images" / "train").iterdir())[0]

    def child():
        few_files()
        try:
            open_picture(picture)
        except CorruptImageError:
            return "corrupt"
        except OSError as error:
            return error.errno

    assert in_child(child) == 24
