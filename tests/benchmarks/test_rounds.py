"""Benchmarks end in time: rounds, and what benchmarks/all.py starts."""

import time

import pytest
from support.benchmarks import script


@pytest.fixture
def rounds(monkeypatch):
    """Rounds of ten seconds each, by a clock that only they move: which of them count."""
    module = script("rounds", monkeypatch)
    seconds = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: seconds[0])

    def made(*arguments, **options):
        found = []
        for counts in module.rounds(*arguments, **options):
            found.append(counts)
            seconds[0] += 10
        return found

    return made


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"most": 3}, [False, True, True, True]),
        ({"most": 2, "warm_up": 2}, [False, False, True, True]),
        ({"most": 9, "minutes": 0.6}, [False, True, True]),  # a fourth would end after 40 seconds
        ({"most": 9, "minutes": 0.5}, [False, True, True]),
        ({"most": 9, "minutes": 0}, [False, True]),
        ({"most": 9, "minutes": 0, "warm_up": 0, "least": 3}, [True, True, True]),
        ({"most": 2, "minutes": 9, "least": 3}, [False, True, True]),
    ],
)
def test_rounds_are_made_until_their_time_is_over(rounds, options, expected):
    assert rounds(**options) == expected


def test_what_runs_into_its_limit_ends_with_its_processes(monkeypatch, tmp_path, capfd):
    module = script("all", monkeypatch)
    alive = tmp_path / "alive"
    grandchild = f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(0.05)"
    slow = tmp_path / "slow.py"
    slow.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {grandchild!r}])")
    benchmark = module.Benchmark(str(slow), (), 1, module.of_data)
    start = time.perf_counter()
    assert module.run(benchmark, tmp_path / "figures.json", 1, limit=3) == "stopped after 0.1 minutes"
    assert time.perf_counter() - start < 30
    assert alive.exists()
    time.sleep(0.3)
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()
    assert module.run(benchmark, tmp_path / "figures.json", 1, limit=0) == "no time was left"
    capfd.readouterr()


def test_failures_are_told_by_their_exit_status(monkeypatch, tmp_path, capfd):
    module = script("all", monkeypatch)
    failing = tmp_path / "failing.py"
    failing.write_text("raise SystemExit(3)")
    benchmark = module.Benchmark(str(failing), (), 1, module.of_data)
    assert module.run(benchmark, tmp_path / "figures.json", 1, limit=60) == "exit status 3"
    capfd.readouterr()
