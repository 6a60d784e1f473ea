"""The same model, bit for bit, from every layout in which trainers save it."""

import pytest
import torch
from conversion import tiny
from safetensors.torch import load_file

from segzoo.commands.cli import main
from segzoo.conversion.convert import convert_checkpoint
from segzoo.errors import SegZooError

AUXILIARY = {**tiny.MODEL["decode_head"], "in_channels": 32, "in_index": 2}


def under(prefix, state, scale=1):
    return {prefix + key: value * scale if value.is_floating_point() else value for key, value in state.items()}


def saved(tmp_path, values, content, **options):
    """The state dict of the model that a file with this content becomes, and the report."""
    path = tmp_path / "latest.pth"
    torch.save({"meta": {"config": tiny.config_text(values)}, **content}, path)
    done = convert_checkpoint(path, output=tmp_path / "out", **options)
    return load_file(done.folder / "model.safetensors"), done.report


@pytest.fixture(scope="module", params=[None, AUXILIARY], ids=["one head", "auxiliary head"])
def values(request):
    return tiny.config(model__auxiliary_head=request.param)


@pytest.fixture
def expected(values, tmp_path):
    return saved(tmp_path / "plain", values, {"state_dict": tiny.state_dict(values)})[0]


@pytest.fixture(autouse=True)
def plain_folder(tmp_path):
    (tmp_path / "plain").mkdir()


# Each layout of a state dict, and what the caller says; other models in it have other weights.
LAYOUTS = {
    "module": lambda s: ({"state_dict": under("module.", s)}, {}),
    "model": lambda s: ({"state_dict": under("model.", s)}, {}),
    "model.module": lambda s: ({"state_dict": under("model.module.", s)}, {}),
    "module.model": lambda s: ({"state_dict": under("module.model.", s)}, {}),
    "Lightning": lambda s: ({"state_dict": under("network.", s) | {"criterion.weight": torch.ones(4)}}, {}),
    "any one prefix": lambda s: ({"state_dict": under("my_net.", s)}, {}),
    "adaptation": lambda s: (
        {"state_dict": under("model.", s) | under("ema_model.", s, 2) | under("imnet_model.", s, 3)},
        {},
    ),
    "adaptation, average": lambda s: (
        {"state_dict": under("model.", s, 2) | under("ema_model.", s) | under("imnet_model.", s, 3)},
        {"ema": True},
    ),
    "average beside": lambda s: ({"state_dict": s | under("ema_model.", s, 2)}, {}),
    "average beside, taken": lambda s: ({"state_dict": under("", s, 2) | under("ema_model.", s)}, {"ema": True}),
    "student": lambda s: (
        {"state_dict": under("student.", s) | under("teacher.", s, 2)},
        {"weights": "student"},
    ),
    "teacher": lambda s: (
        {"state_dict": under("student.module.", s, 2) | under("teacher.module.", s)},
        {"weights": "teacher"},
    ),
    "entries": lambda s: ({"student": under("module.", s, 2), "teacher": s}, {"weights": "teacher"}),
    "teacher beside": lambda s: ({"state_dict": s | under("teacher.", s, 2)}, {"weights": "student"}),
    "student alone": lambda s: ({"state_dict": under("student.", s)}, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_model(layout, values, expected, tmp_path):
    content, options = LAYOUTS[layout](tiny.state_dict(values))
    found, report = saved(tmp_path, values, content, **options)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    others = sum(map(len, content.values())) - len(tiny.state_dict(values))
    assert len(report.keys.left_out) == others
    assert any("left out" in note for note in report.notes) == (others > 0)
    assert any("moving average" in note for note in report.notes) == bool(options.get("ema"))


def test_student_and_teacher_must_be_told_apart(tmp_path, capsys):
    state = tiny.state_dict(tiny.config())
    path = tiny.save(tmp_path / "a.pth", state=under("student.", state) | under("teacher.", state, 2))
    assert main(["convert", str(path), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--weights student|teacher" in error and not (tmp_path / "out").exists()
    assert main(["convert", str(path), "--output", str(tmp_path / "out"), "--weights", "teacher"]) == 0


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        ("", {"weights": "teacher"}, "no weights of a teacher; leave --weights out"),
        ("model.", {"ema": True}, "no moving average"),
        ("a. b.", {}, r"several models \(a\.\*, b\.\*\); save the weights of one"),
        ("model. net.", {}, r"several models \(model\.\*, net\.\*\)"),
    ],
)
def test_errors(tmp_path, state, options, message):
    weights = tiny.state_dict(tiny.config())
    state = {key: value for prefix in state.split() or [""] for key, value in under(prefix, weights).items()}
    with pytest.raises(SegZooError, match=message):
        convert_checkpoint(tiny.save(tmp_path / "a.pth", state=state), output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class TestStrippedAuxiliaryHeads:
    def test_left_out_and_said(self, tmp_path):
        values = tiny.config(model__auxiliary_head=[AUXILIARY, AUXILIARY])
        state = {k: v for k, v in tiny.state_dict(values).items() if not k.startswith("auxiliary_head.")}
        found, report = saved(tmp_path, values, {"state_dict": state})
        expected, plain = saved(tmp_path / "plain", tiny.config(), {"state_dict": state})
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
        assert any("auxiliary_head" in note and "left out" in note for note in report.notes)
        assert report.components == plain.components and not any("auxiliary" in note for note in plain.notes)

    @pytest.mark.parametrize("lost", ["auxiliary_head.1.", "auxiliary_head.0.conv_seg."])
    def test_a_part_that_is_missing_is_an_error(self, lost, tmp_path):
        values = tiny.config(model__auxiliary_head=[AUXILIARY, AUXILIARY])
        state = {k: v for k, v in tiny.state_dict(values).items() if not k.startswith(lost)}
        with pytest.raises(SegZooError, match=f"missing: {lost}"):
            saved(tmp_path, values, {"state_dict": state})
