"""Python programs in real processes that start in a fraction of a second.

They are forked from a server process that has imported everything and done nothing, so that each is as fresh as a new
interpreter, can be killed, and gets an exit status. Not for programs of which it is tested what they import, or how libraries
read the environment while they are imported: that has happened.
"""

import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import segzoo.training

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "torch.distributed.tensor",
        "accelerate",
        "datasets",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.image_processing_auto",
        "matplotlib.backends.backend_agg",
        "segzoo.commands.train",
        "segzoo.modeling_segzoo",
        "segzoo.image_processing_segzoo",
        *(f"segzoo.training.{module.name}" for module in pkgutil.iter_modules(segzoo.training.__path__)),
    ]
)


def begin(stdout: str, stderr: str) -> None:
    """In a forked process: a group of its own, the signals and the loading processes of a program, and files for what it prints."""
    import torch

    multiprocessing.set_start_method("fork", force=True)  # for its own loading processes, as usual on Linux
    os.setsid()  # a group of its own, with the processes that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup with this one ignored
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)  # the same sums in the same order


def run_python(
    *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """What ``python WORDS...`` does, as `subprocess.run` with text tells it.

    Args:
        words: ``-c`` and a program, ``-m`` and a module, or the path of a script; then its own arguments.
        cwd: the folder in which it runs; this process's by default.
        env: its environment; this process's by default.
        timeout: seconds after which it is killed, which is an AssertionError.
    """
    argv = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("out", "err")]
        arguments = (argv, str(cwd or Path.cwd()), dict(os.environ if env is None else env), *map(str, printed))
        process = context.Process(target=_run, args=arguments)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"still running after {timeout} s: {argv}")
        texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in printed]
    return subprocess.CompletedProcess(argv, process.exitcode, *texts)


def _run(argv: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    begin(stdout, stderr)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    what, *rest = argv
    first = cwd if what in ("-c", "-m") else str(Path(what).parent)
    sys.path[:0] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if what == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(what, run_name="__main__")
