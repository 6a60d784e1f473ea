"""The notebooks are those of their scripts, executed, without errors and without anything of the machine that made them."""

import importlib.util

import nbformat
import pytest
from support.documents import ROOT

_FILE = ROOT / "docs/notebooks/make.py"
_SPEC = importlib.util.spec_from_file_location("make_notebooks", _FILE)
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

SCRIPTS = pytest.mark.parametrize("script", make.SCRIPTS, ids=lambda script: script.stem)


def test_every_notebook_has_a_script_and_a_line():
    page = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
    notebooks = {path.stem for path in _FILE.parent.glob("*.ipynb")}
    assert notebooks == {script.stem for script in make.SCRIPTS} and len(notebooks) == 4
    assert all(f"(notebooks/{name}.ipynb)" in page for name in notebooks)


@SCRIPTS
def test_notebook_is_whole(script):
    path = script.with_suffix(".ipynb")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    written = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert written == make.read_cells(script), f"run python docs/notebooks/make.py {script.stem}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)
    assert [make.cleaned(cell.outputs, script.name) for cell in code] == [cell.outputs for cell in code]
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("text", ["/tmp/x/model.onnx: 1 MiB", "in /home/a", "('/opt/a',)"])
def test_paths_are_refused(text):
    output = nbformat.v4.new_output("stream", text=text)
    with pytest.raises(ValueError, match="path of this machine"):
        make.cleaned([output], "a cell")


def test_overwritten_lines_and_colours_are_left_out():
    said = [
        nbformat.v4.new_output("stream", text="1/2\r2/2 \r\n"),
        nbformat.v4.new_output("stream", text="\x1b[1mdone"),
    ]
    bars = nbformat.v4.new_output("stream", name="stderr", text="10%")
    (output,) = make.cleaned([bars, *said], "a cell")
    assert output.text == "2/2\ndone"


@pytest.mark.slow
@SCRIPTS
def test_notebook_runs(script):
    notebook = make.execute(script)
    assert all(cell.outputs for cell in notebook.cells[-1:] if cell.cell_type == "code")
