"""Writes the notebooks from the scripts beside this one, and executes them.

    python docs/notebooks/make.py               # all
    python docs/notebooks/make.py export_and_run

A script is a notebook in the percent format: ``# %%`` begins a cell, ``# %% [markdown]`` one of text, and ``# !`` is a command of
the shell. Outputs are cleaned: no paths of this machine, no lines that were overwritten on the terminal.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path != Path(__file__))
MACHINE_PATH = re.compile(r"(?<![\w.:/<])/[A-Za-z]\w*/")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_cells(script: Path) -> list[tuple[str, str]]:
    """Kind (``markdown`` or ``code``) and text of each cell of a script."""
    cells = []
    for part in re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        body = body.strip("\n")
        if head.strip() == "[markdown]":
            cells.append(("markdown", re.sub(r"^# ?", "", body, flags=re.M)))
        else:
            cells.append(("code", re.sub(r"^# !", "!", body, flags=re.M)))
    return cells


def new_notebook(script: Path) -> nbformat.NotebookNode:
    """A script's notebook without outputs."""
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = [make[kind](text, id=f"cell-{number}") for number, (kind, text) in enumerate(read_cells(script))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def execute(script: Path) -> nbformat.NotebookNode:
    """A script's notebook with outputs, made in an empty folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        ValueError: an output holds a path of this machine.
    """
    notebook = new_notebook(script)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
        "TERM": "dumb",
        "PYTHONWARNINGS": "ignore",
    }
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = cleaned(cell.outputs, f"{script.name}, {cell.id}")
    notebook.metadata.pop("language_info", None)
    return notebook


def cleaned(outputs: Iterable[nbformat.NotebookNode], where: str) -> list[nbformat.NotebookNode]:
    """Outputs without bars of progress, control characters, and pictures in a second format; paths are refused."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue  # progress bars; an error of a cell is an exception
        texts = output if output.output_type == "stream" else output.get("data", {})
        texts.pop("image/jpeg", None)
        for kind in ("text", "text/plain", "text/html"):
            if kind in texts:
                lines = _ESCAPE.sub("", texts[kind]).replace("\r\n", "\n").split("\n")
                texts[kind] = "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
                if MACHINE_PATH.search(texts[kind]):
                    raise ValueError(f"{where}: the output names a path of this machine:\n{texts[kind]}")
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main(names: list[str]) -> None:
    """Write the notebooks of these names, or all."""
    for script in SCRIPTS:
        if not names or script.stem in names:
            nbformat.write(execute(script), script.with_suffix(".ipynb"))
            print(script.with_suffix(".ipynb").name)


if __name__ == "__main__":
    main(sys.argv[1:])
