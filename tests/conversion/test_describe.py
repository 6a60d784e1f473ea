"""What a conversion would give: by the function, and by `segzoo convert --dry_run`."""

import json

import pytest
from conversion import tiny

from segzoo import zoo
from segzoo.commands.cli import main
from segzoo.conversion import ConversionError, convert_checkpoint, describe_conversion

NAMES = ["sky", "road", "car", "tree"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(tiny.config_text(tiny.config()))
    return path


def dry_run(*arguments):
    return main(["convert", "--dry_run", *map(str, arguments)])


def test_it_says_what_the_conversion_then_gives(config, tmp_path):
    preview = describe_conversion(config)
    report = convert_checkpoint(tiny.save(tmp_path / "a.pth", CLASSES=None), output=tmp_path / "out").report
    assert (preview.components, preview.parameters) == (report.components, report.parameters)
    assert preview.notes == report.notes and any("no names are known" in note for note in preview.notes)
    assert (preview.num_labels, preview.class_names, preview.labels_source) == (4, None, "")
    assert describe_conversion(tiny.config()).to_dict() == preview.to_dict() | {"config_source": "the values given"}


def test_given_names(config):
    preview = describe_conversion(config, class_names=NAMES)
    assert (preview.class_names, preview.labels_source, preview.notes) == (NAMES, "the caller", [])
    with pytest.raises(ConversionError, match="the caller names 3 classes, .* has 4; give one name for each class"):
        describe_conversion(config, class_names=NAMES[:3])


def test_a_released_one_by_any_of_its_names():
    row = zoo.find("fcn_r50-d8_512x1024_40k_cityscapes")
    for name in (row.name, *row.aliases):
        preview = describe_conversion(name)
        assert (preview.parameters, preview.num_labels) == (row.parameters, 19)


def test_the_command_with_a_config(config, tmp_path, capsys):
    assert dry_run("--config", config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "converts: ResNetV1c -> segzoo_resnet, FCNHead -> segzoo_fcn_head"
    assert lines[1].startswith("classes: 4") and lines[-1].startswith("note: classes: no names are known")
    assert dry_run("--config", config, "--classes", ",".join(NAMES)) == 0
    assert "classes: 4 (sky, road, car, tree; from the caller)" in capsys.readouterr().out
    config.write_text(config.read_text().replace("'FCNHead'", "'WonderHead'"))
    assert dry_run("--config", config) == 1
    assert "WonderHead" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"config.py"}


def test_the_command_with_a_checkpoint_reads_its_weights(tmp_path, capsys):
    state = tiny.state_dict(tiny.config())
    assert dry_run(tiny.save(tmp_path / "a.pth", state=state)) == 0
    assert "all found in the file" in capsys.readouterr().out
    del state["decode_head.conv_seg.bias"]
    assert dry_run(tiny.save(tmp_path / "a.pth", state=state)) == 1
    assert "missing: decode_head.conv_seg.bias" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.pth"}


def test_the_command_with_the_name_of_a_release(capsys):
    name = "fcn_r50-d8_512x1024_40k_cityscapes"
    assert dry_run(name) == 0 and dry_run("--name", name) == 0
    first, second = capsys.readouterr().out.split("converts: ")[1:]
    assert first == second and "classes: 19 (road, sidewalk" in first


@pytest.mark.parametrize("option", ["--output", "--report", "--push_to_hub"])
def test_what_only_a_conversion_writes_is_refused(option, config, tmp_path, capsys):
    assert dry_run("--config", config, option, tmp_path / "out") == 1
    assert f"--dry_run writes nothing; leave {option} out" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"config.py"}


def test_what_is_missing(tmp_path, capsys):
    assert dry_run() == 1
    assert "--dry_run needs CHECKPOINT, --config FILE or --name" in capsys.readouterr().err
    assert dry_run(tmp_path / "a.pth") == 1
    assert main(["convert", "a.pth"]) == 1
    assert "--output" in capsys.readouterr().err


class TestClasses:
    FORMS = {
        "ids.json": json.dumps({str(i): name for i, name in reversed(list(enumerate(NAMES)))}),
        "config.json": json.dumps({"id2label": {str(i): name for i, name in enumerate(NAMES)}, "model_type": "x"}),
        "list.json": json.dumps(NAMES),
        "names.txt": "sky\nroad\r\ncar\n\ntree",
        "": "",
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_forms(self, form, tmp_path):
        given = ", ".join(NAMES)
        if form:
            (tmp_path / form).write_bytes(self.FORMS[form].encode())
            given = str(tmp_path / form)
        path = tiny.save(tmp_path / "a.pth", CLASSES=("a", "b", "c"))  # what the file says does not count then
        assert main(["convert", str(path), "--output", str(tmp_path / "out"), "--classes", given]) == 0
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert [config["id2label"][str(i)] for i in range(4)] == NAMES

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ('{"1": "a", "2": "b"}', "ids 0, 1, 2"),
            ("[1, 2]", "expected class names"),
            ("[]", "expected class names"),
            (None, "no such file of class names"),
        ],
    )
    def test_errors(self, content, message, config, tmp_path, capsys):
        if content is not None:
            (tmp_path / "names.json").write_text(content)
        assert dry_run("--config", config, "--classes", tmp_path / "names.json") == 1
        assert message in capsys.readouterr().err
