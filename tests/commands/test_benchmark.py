"""`segzoo benchmark`: a line for each way, size, batch and number of threads, and what the numbers are."""

import json
from dataclasses import replace

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import UNetConfig
from segzoo.commands import benchmark
from segzoo.commands.cli import main
from segzoo.heads import FCNHeadConfig
from segzoo.hub import save_model_folder
from segzoo.measuring import LEAST_ROUNDS, USUAL_WAYS, WHAT_THEY_ARE

QUICK = ["--seconds", "0.01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    processor = SegZooImageProcessor(size={"height": 48, "width": 64})
    return save_model_folder(model, processor, tmp_path_factory.mktemp("models") / "tiny")


def test_numbers_as_json(folder, capsys):
    before = torch.get_num_threads()
    arguments = ["--ways", "eager", "fused", "--dtype", "float32", "--batch", "1", "2", "--threads", "1"]
    assert main(["benchmark", str(folder), *arguments, *QUICK, "--json", "--device", "cpu"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert torch.get_num_threads() == before
    parameters = SegZooForSemanticSegmentation(SegZooConfig.tiny()).num_parameters()
    assert (facts["parameters"], facts["device"]) == (parameters, "cpu") and facts["weight_bytes"] > 4 * parameters
    ways = [(r["way"], r["dtype"], r["batch"]) for r in facts["results"]]
    assert ways == [(way, "float32", batch) for batch in (1, 2) for way in ("eager", "fused")]
    for result in facts["results"]:
        assert (result["size"], result["threads"]) == ([48, 64], 1) and result["rounds"] >= LEAST_ROUNDS
        assert result["images_per_second"] == pytest.approx(1e3 * result["batch"] / result["median_ms"])
        assert 0 < result["median_ms"] <= result["p99_ms"]
        assert result["memory_bytes"] is None or result["memory_bytes"] >= 0


def test_a_released_name_is_built_without_its_weights(capsys):
    arguments = ["--ways", "eager", "--dtype", "float32", "--size", "64", "32x48", *QUICK]
    assert main(["benchmark", "fast_scnn_lr0.12_8x4_160k_cityscapes", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1.4 M parameters" in lines[1] and lines[2].split() == [
        "way",
        "dtype",
        "size",
        "batch",
        "images/s",
        "median",
        "99",
        "%",
        "memory",
    ]
    assert [line.split()[:4] for line in lines[3:5]] == [
        ["eager", "float32", size, "1"] for size in ("64x64", "32x48")
    ]
    assert any(line.startswith("images/s: ") for line in lines)


def test_what_fails_is_a_line_and_nothing_at_all_an_error(tmp_path, capsys):
    """One size that a model does not take ends no table."""
    config = SegZooConfig.from_backbone(UNetConfig.tiny(), FCNHeadConfig(channels=8), auxiliary=False, num_labels=2)
    folder = save_model_folder(SegZooForSemanticSegmentation(config), SegZooImageProcessor(), tmp_path / "unet")
    arguments = ["benchmark", str(folder), "--ways", "eager", "--dtype", "float32", *QUICK]
    assert main([*arguments, "--size", "32x33", "32x32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "not measured: " in lines[3] and "32x33" in lines[3] and lines[4].split()[2] == "32x32" and " ms " in lines[4]
    )
    assert main([*arguments, "--size", "32x33"]) == 1
    assert "nothing could be measured" in capsys.readouterr().err


def test_an_error_of_onnxruntime_ends_no_table(folder, capsys, monkeypatch):
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    def fail(*_):
        raise Fail("[ONNXRuntimeError] : 1 : FAIL : no such operator")

    monkeypatch.setitem(USUAL_WAYS, "onnxruntime", replace(USUAL_WAYS["onnxruntime"], prepare=fail))
    assert main(["benchmark", str(folder), "--ways", "eager", "onnxruntime", "--json", *QUICK]) == 0
    lines = {
        line["way"]: line for line in json.loads(capsys.readouterr().out)["results"] if line["dtype"] == "float32"
    }
    assert "images_per_second" in lines["eager"] and "FAIL : no such operator" in lines["onnxruntime"]["why_not"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fast_scnn_lr0.12"], "fast_scnn"),
        (["{folder}", "--device", "cuda:77"], "device cuda:77"),
        (["{folder}", "--seconds", "0"], "--seconds 0"),
        (["{folder}", "--ways", "onnxruntime", "--dtype", "bfloat16"], "measured (it runs in float32 alone)"),
    ],
)
def test_errors_are_one_line(arguments, message, folder, capsys):
    assert main(["benchmark", *(word.format(folder=folder) for word in arguments)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_names_are_written_down_once_more_for_the_help_alone():
    assert tuple(USUAL_WAYS) == benchmark.WAYS == tuple(WHAT_THEY_ARE)


@pytest.mark.slow
def test_all_ways(folder, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["benchmark", str(folder), *QUICK, "--json"]) == 0
    results = {result["way"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    assert {"eager", "fused", "compiled", "onnxruntime"} <= results.keys()
    assert all("images_per_second" in result for result in results.values()), results
