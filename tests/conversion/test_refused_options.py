"""The page of refused options, docs/conversion.md: every row is refused, and every refusal in the code has a row."""

import ast
import importlib.util
import traceback
from pathlib import Path

import pytest
from conversion import tiny

import segzoo.conversion
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_translated
from segzoo.conversion.reading.configs import read_config_text
from segzoo.conversion.translate import translate_config

DOCS = Path(__file__).parents[2] / "docs"
CODE = Path(segzoo.conversion.__file__).parent
FILES = ("translate.py", "processor.py", "preparation.py", "options.py", "rules/common.py")
ROWS = [
    tuple(cell.strip() for cell in line.strip("| \n").split(" | "))
    for line in (DOCS / "conversion.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def refused(change):
    """The error of a config with a change such as ``model.backbone.depth = 20``, the last key, and the value's text."""
    assignment = ast.parse(change).body[0]
    path, node = [], assignment.targets[0]
    while not isinstance(node, ast.Name):
        path.insert(0, node.attr if isinstance(node, ast.Attribute) else node.slice.value)
        node = node.value
    *parents, last = [node.id, *path]
    place = values = read_config_text(tiny.config_text(tiny.config()))
    for key in parents:
        place = place[key]
    place[last] = read_config_text(f"x = {ast.unparse(assignment.value)}")["x"]
    with pytest.raises(ConversionError) as caught:
        build_translated(translate_config(values))
    return caught.value, str(last), ast.unparse(assignment.value)


@pytest.mark.parametrize(("option", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_every_row_is_refused_by_name(option, reason):
    error, key, value = refused(option.strip("`"))
    named = [part.split("`")[0] for part in f"{reason}`".split("`")[1::2] if part]  # options that the reason quotes
    assert any(name in str(error) for name in [key, *named, value.strip("'")] if name), str(error)


def sites():
    """Where the code that all models share refuses something: file, first and last line."""
    for name in FILES:
        for node in ast.walk(ast.parse((CODE / name).read_text(encoding="utf-8"))):
            match node:
                case ast.Raise(exc=ast.Call(func=ast.Name(id="ConversionError") | ast.Attribute(attr="error"))):
                    yield name, node.lineno, node.end_lineno
                case ast.Call(func=ast.Attribute(attr="expect"), args=[ast.Constant(), *_]):
                    yield name, node.lineno, node.end_lineno


def test_every_refusal_has_a_row():
    reached = set()
    for option, _ in ROWS:
        for frame in traceback.extract_tb(refused(option.strip("`"))[0].__traceback__):
            reached.add((frame.filename, frame.lineno))
    missing = [
        f"{name}:{first}"
        for name, first, last in sites()
        if not any((str(CODE / name), line) in reached for line in range(first, last + 1))
    ]
    assert not missing, f"add rows to docs/conversion.md for {missing}"


def test_the_table_of_components_is_up_to_date():
    spec = importlib.util.spec_from_file_location("refused_options", DOCS / "refused_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/refused_options.py"
    assert "| resnet | `dcn` | `None` |" in module.table()
    assert "| mask2former | `batch_first` | `False` in configs for mmdetection 2, `True` in" in module.table()
    with pytest.raises(SystemExit, match=r"spelling\.layers: say in COMPUTED"):  # a name of ours
        list(module.options(ast.parse("options.expect('layers', spelling.layers)")))
