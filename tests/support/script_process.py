"""Runs of an example script in real processes, forked as those of `forked` are: they start in a fraction of a second."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from support.forked import begin, context
from torch.distributed import TCPStore

SCRIPT = Path(__file__).parents[2] / "examples" / "run_semantic_segmentation.py"


class ScriptRun:
    """A running script.

    Args:
        options: by flag without dashes (True is a switch, None leaves the flag out, tuples are several words); or a list of words.
        logs: a folder for what is printed; made if need be.
        processes: more than one train together over gloo, as a launcher would start them.
        script: path of the script.
    """

    def __init__(self, options: dict | Sequence, logs: Path, *, processes: int = 1, script: Path = SCRIPT):
        argv = words(options) if isinstance(options, dict) else [str(word) for word in options]
        logs.mkdir(parents=True, exist_ok=True)
        self.logs, self.processes = logs, []
        # As torchrun does: it keeps the store that they meet in, which outlives each of them.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if processes > 1 else None
        for rank in range(processes):
            environment = {"ACCELERATE_USE_CPU": "true"}
            if processes > 1:
                environment |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "LOCAL_WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(self._store.port),
                    "TORCHELASTIC_USE_AGENT_STORE": "True",
                    "TORCHELASTIC_RESTART_COUNT": "0",
                    "OMP_NUM_THREADS": "1",
                }
            arguments = (str(script), argv, str(logs / f"out-{rank}"), str(logs / f"err-{rank}"), environment)
            self.processes.append(context.Process(target=_run, args=arguments))
        for process in self.processes:
            process.start()

    @property
    def stdout(self) -> str:
        return self._read("out")

    @property
    def stderr(self) -> str:
        return self._read("err")

    def wait(self, timeout: float = 300) -> int | list[int]:
        """The exit status, or those of all processes; minus the signal's number for a killed one."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                self.kill()
                raise AssertionError(f"still running after {timeout} s\n{self.stdout}\n{self.stderr}")
        codes = [process.exitcode for process in self.processes]
        return codes[0] if len(codes) == 1 else codes

    def until(self, moment: Callable[[], object], timeout: float = 300) -> "ScriptRun":
        """Wait, looking all the time, until ``moment()`` is true."""
        deadline = time.monotonic() + timeout
        while not moment():
            if time.monotonic() > deadline or not any(process.is_alive() for process in self.processes):
                self.kill()
                raise AssertionError(f"the moment never came\n{self.stdout}\n{self.stderr}")
            time.sleep(0.0005)
        return self

    def until_step(self, step: int, timeout: float = 300) -> "ScriptRun":
        """Wait until the line of a step is printed."""
        return self.until(lambda: f"step {step}/" in self.stdout, timeout)

    def signal(self, number: int, *, with_children: bool = False) -> "ScriptRun":
        """Send a signal to all processes; also to those that load data, as Slurm and ``timeout`` do."""
        for process in self.processes:
            if process.is_alive():
                (os.killpg if with_children else os.kill)(process.pid, number)
        return self

    def kill(self) -> None:
        """Kill all processes with -9 and wait for their end."""
        self.signal(signal.SIGKILL)
        for process in self.processes:
            process.join()

    def _read(self, kind: str) -> str:
        files = sorted(self.logs.glob(f"{kind}-*"))
        text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
        # torch before 2.9 prints it.
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo] Rank "))


def words(options: dict) -> list[str]:
    """A command line of options."""
    argv = []
    for name, value in options.items():
        if value is True:
            argv.append(f"--{name}")
        elif value is not None:
            argv += [
                f"--{name}",
                *map(str, value if isinstance(value, Sequence) and not isinstance(value, str) else [value]),
            ]
    return argv


def _run(script: str, argv: list[str], stdout: str, stderr: str, environment: dict[str, str]) -> None:
    begin(stdout, stderr)
    os.environ.update(environment)
    spec = importlib.util.spec_from_file_location("script_under_test", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.exit(module.main(argv))
