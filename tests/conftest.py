import atexit
import os
import shutil
import tempfile

# Containers often forbid Python to keep what it compiles. Here dozens of processes start, and each would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if "PYTEST_XDIST_WORKER" not in os.environ:  # whose processes share the folder of the one that starts them
    # What is measured and downloaded is kept in the user's own folder, where tests neither read nor write.
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="segzoo_tests_")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
else:  # several processes share the cores: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import re
import signal
import sys

import hypothesis
import pytest

# The same examples in every run, so that a failure is one of the change at hand; HYPOTHESIS_PROFILE=search looks for others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("search", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_COMPONENT = re.compile(r"(?:test_contract|test_modeling_segzoo)\.py::.*\[(?:.*-)?(segzoo_\w+)")


@pytest.fixture(autouse=True)
def _seed():
    import torch  # not in the process that hands tests out to others, and so waits for them sooner

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registrations():
    """What a test registers is forgotten after it: other tests run over all that is registered."""
    from segzoo import auto

    kept = [(registry, dict(registry)) for registry in (auto.BACKBONES, auto.NECKS, auto.HEADS)]
    yield
    for registry, before in kept:
        if registry != before:
            registry.clear()
            registry.update(before)


@pytest.fixture(autouse=True)
def _precision():
    """Accelerate keeps the precision of a process's first accelerator: no test has that of another, or of a shared fixture."""
    _forget_precision()
    yield
    _forget_precision()


def _forget_precision():
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state()


class SharedFixtures:
    """What several tests share is the same whichever of them comes first."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope != "function":
            import torch

            torch.manual_seed(0)


class ComponentTimes:
    """Seconds of the contract tests of each backbone, neck and head; tests are added with every one of them."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.total = 0.0

    def pytest_runtest_logreport(self, report):
        self.total += report.duration
        if found := _COMPONENT.search(report.nodeid):
            self.seconds[found[1]] = self.seconds.get(found[1], 0.0) + report.duration

    def pytest_terminal_summary(self, terminalreporter):
        if not self.seconds:
            return
        longest_first = sorted(self.seconds.items(), key=lambda item: -item[1])
        mean = sum(self.seconds.values()) / len(self.seconds)
        rest = self.total - sum(self.seconds.values())
        terminalreporter.section("seconds of tests per component")
        terminalreporter.write_line(", ".join(f"{name} {seconds:.1f}" for name, seconds in longest_first))
        terminalreporter.write_line(
            f"mean {mean:.1f}; all other tests {rest:.0f}; with 60 components {60 * mean + rest:.0f} seconds of one process"
        )


def pytest_configure(config):
    gc.disable()  # until all tests are collected, of which nothing is garbage
    sys.dont_write_bytecode = False  # where there is one process alone
    config.pluginmanager.register(SharedFixtures())  # of a session's fixtures the hooks of this file are not told
    if not hasattr(config, "workerinput"):  # not in the processes that run tests side by side: their reports come here
        config.pluginmanager.register(ComponentTimes())


def pytest_collection_finish(session):
    gc.freeze()  # modules and tests stay until the end: looking through them takes a second each time
    gc.enable()


@pytest.fixture
def hangup_counts():
    """SIGHUP as it is by default, for the test and what it starts: a suite that nohup started ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
