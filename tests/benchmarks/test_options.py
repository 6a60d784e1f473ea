"""What cannot be measured is refused before anything is."""

import sys

import pytest
from support.benchmarks import script


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("data", "--pictures 32", "--pictures: 32 is less than 33"),
        ("data", "--num_workers -1", "--num_workers: -1 is less than 0"),
        ("deformable", "--rounds 0", "--rounds: 0 is less than 1"),
        ("deformable", "--threads two", "--threads: invalid int value: 'two'"),
        ("deformable", "--image 10", "--image: 10 is less than 32"),
        ("deformable", "--channels 5", "--channels 5 do not divide into --groups 4"),
        ("deformable", "--device abacus", "--device: Expected one of cpu, cuda"),
        ("inference", "--sizes 0x64", "--sizes: 0 is less than 1"),
        ("metrics", "--dtype foo", "--dtype: invalid choice: 'foo'"),
        ("all", "--output {folder} --read", "holds no figures of an earlier run"),
    ],
)
def test_what_cannot_be_measured_is_refused(name, options, words, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options.format(folder=tmp_path).split()])
    with pytest.raises(SystemExit) as refusal:
        script(name, monkeypatch).main()
    assert refusal.value.code == 2
    assert words in capsys.readouterr().err


def test_an_architecture_without_code_is_one_line(monkeypatch):
    module = pytest.importorskip("triton") and script("kernel_code", monkeypatch)

    def fail(*_):
        raise module.PTXASError("'sm_10' is not defined\n\nRepro command: ptxas")

    monkeypatch.setattr(module, "compiled", fail)
    with pytest.raises(SystemExit, match=r"^no code for --capabilities 10: .*'sm_10' is not defined$"):
        list(module.all_codes(module.parse(["--capabilities", "10"])))
