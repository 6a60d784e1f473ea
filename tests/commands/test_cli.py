import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_folders import make_scenes
from support.versions import DATASETS_WITHOUT_TORCH

import segzoo.commands
from segzoo.commands import cli

SOURCE = Path(segzoo.__file__).parents[1]

PROBE = '''"""Does what the test asks."""

import sys

from segzoo.errors import SegZooError


def add_arguments(parser):
    parser.add_argument("what")
    parser.add_argument("--number", type=int, default=0)


def run(args):
    match args.what:
        case "status":
            print("ran")
            return args.number
        case "nothing":
            return None
        case "error":
            raise SegZooError("thing: cause; fix")
        case "subclass":
            raise type("ConversionError", (SegZooError,), {})("two\\nlines")
        case "missing":
            open("no/such/file")
        case "oserror":
            raise OSError("the Hub has no such model")
        case "interrupt":
            raise KeyboardInterrupt
        case "fault":
            raise KeyError("a fault of ours")
        case "encoding":
            print("道路, café")
            print("道路", file=sys.stderr)
        case "collector":
            import gc

            print(gc.isenabled(), gc.get_freeze_count() > 0)
        case "flood":
            for _ in range(100_000):
                print("a line that nobody reads")
'''


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """A subcommand ``probe`` beside the real ones."""
    (tmp_path / "probe.py").write_text(PROBE, encoding="utf-8")
    monkeypatch.setattr(segzoo.commands, "__path__", [*segzoo.commands.__path__, str(tmp_path)])
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "probe"))
    monkeypatch.delenv("SEGZOO_DEBUG", raising=False)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("segzoo.commands.probe", None)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_commands_keep_their_contract(name):
    line = cli.help_line(name)
    module = importlib.import_module(f"segzoo.commands.{name}")
    assert line == module.__doc__.splitlines()[0] and line.endswith(".") and len(line) < 90
    assert callable(module.add_arguments) and callable(module.run)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: segzoo {name}") and "--traceback" in text


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_imports_no_command(arguments, probe, capsys):
    try:
        assert cli.main(arguments) == 0
    except SystemExit as end:
        assert end.code == 0
    text = capsys.readouterr().out
    assert "Does what the test asks." in text and all(name in text for name in cli.COMMANDS)
    assert "segzoo.commands.probe" not in sys.modules


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"segzoo {segzoo.__version__} (torch ")


@pytest.mark.parametrize(
    ("arguments", "status"), [(["status"], 0), (["status", "--number", "3"], 3), (["nothing"], 0)]
)
def test_status(arguments, status, probe):
    assert cli.main(["probe", *arguments]) == status


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("error", 1, "segzoo: error: thing: cause; fix\n"),
        ("subclass", 1, "segzoo: error: two\nlines\n"),
        ("missing", 1, "segzoo: error: no/such/file: No such file or directory\n"),
        ("oserror", 1, "segzoo: error: the Hub has no such model\n"),
        ("interrupt", 130, "segzoo: interrupted\n"),
    ],
)
def test_errors_are_one_clean_line(what, status, message, probe, capsys, monkeypatch):
    assert cli.main(["probe", what]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == message
    error = KeyboardInterrupt if what == "interrupt" else (ValueError, OSError)
    for arguments in (["probe", what, "--traceback"], ["--traceback", "probe", what]):
        with pytest.raises(error):
            cli.main(arguments)
    monkeypatch.setenv("SEGZOO_DEBUG", "1")
    with pytest.raises(error):
        cli.main(["probe", what])


def test_a_fault_of_ours_keeps_its_traceback(probe):
    with pytest.raises(KeyError):
        cli.main(["probe", "fault"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convret"], "segzoo: error: no subcommand 'convret': did you mean 'convert'?"),
        (["zzz"], f"segzoo: error: no subcommand 'zzz': choose one of {', '.join(cli.COMMANDS)}"),
        (["--colour"], "segzoo: error: unrecognized arguments: --colour"),
        (["probe"], "segzoo probe: error: the following arguments are required: what"),
    ],
)
def test_wrong_usage(arguments, message, probe, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def probe_program(probe, what):
    """The command line of a process that runs ``segzoo probe``."""
    program = f"""
import sys, types
sys.argv[0] = "segzoo"
import segzoo.commands
from segzoo.commands import cli
sys.modules["segzoo.registration"] = types.ModuleType("nothing")  # the models take seconds to import
segzoo.commands.__path__.append({str(probe)!r})
cli.COMMANDS += ("probe",)
sys.exit(cli.main(["probe", {what!r}]))
"""
    return [sys.executable, "-c", program]


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_reader_that_leaves(probe):
    """A program whose output is closed after one line."""
    process = subprocess.Popen(probe_program(probe, "flood"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == cli.EXIT_BROKEN_PIPE
    assert errors == b""


@pytest.mark.parametrize("handler", ["strict", "surrogateescape"])
def test_characters_that_the_terminal_lacks(probe, handler):
    environment = {**os.environ, "PYTHONIOENCODING": f"cp1252:{handler}"}
    done = subprocess.run(probe_program(probe, "encoding"), env=environment, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout.decode("cp1252").strip()) == (0, "??, café")


def test_module_is_the_program():
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "segzoo", "convret"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("segzoo: error: no subcommand 'convret': did you mean 'convert'?\n")


START = """
import sys
sys.argv[0] = "segzoo"
from segzoo.commands.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "datasets", "PIL"} & set(sys.modules)
    print("imported:", *sorted(heavy), file=sys.stderr)
"""


def test_what_needs_no_model_runs_without_torch(tmp_path):
    make_scenes(tmp_path / "data")
    check = [["data", "check", str(tmp_path / "data")]] * DATASETS_WITHOUT_TORCH
    for words in (["list", "segformer", "--convertible"], *check):
        done = subprocess.run([sys.executable, "-c", START, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        imported = done.stderr.splitlines()[-1].split()
        assert imported[0] == "imported:" and not {"torch", "transformers"} & set(imported), words


def test_processes_of_the_program_register_nothing():
    """Those of ``python -m segzoo data prepare`` read pictures alone."""
    program = Path(segzoo.__file__).with_name("__main__.py")
    start = f"import sys; sys.argv[0] = {str(program)!r}; import segzoo.images.reading; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", start], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("words", [["--help"], ["convet"], *([name, "--hlep"] for name in cli.COMMANDS)], ids=" ".join)
def test_help_and_typos_import_no_library_of_models(words):
    done = subprocess.run([sys.executable, "-c", START, *words], capture_output=True, text=True)
    assert done.returncode in (0, 2)
    assert "\nimported:\n" in "\n" + done.stderr, done.stderr


def test_the_program_registers_with_transformers_before_a_command_runs(probe):
    program = f"""
import sys
sys.argv[0] = "segzoo"
import segzoo.commands
from segzoo.commands import cli
segzoo.commands.__path__.append({str(probe)!r})
cli.COMMANDS += ("probe",)
assert "transformers" not in sys.modules
assert cli.main(["probe", "nothing"]) == 0
from transformers import AutoConfig
assert AutoConfig.for_model("segzoo").model_type == "segzoo"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("call", "frozen"), [("main()", True), ("main(sys.argv[1:])", False)])
def test_the_program_starts_without_the_garbage_collector(call, frozen, probe):
    before, _, _ = probe_program(probe, "collector")[-1].partition("sys.exit(")
    program = f"""{before}
import gc
sys.argv = ["segzoo", "probe", "collector"]
cli.importlib = types.SimpleNamespace(**vars(cli.importlib))
imported = cli.importlib.import_module
cli.importlib.import_module = lambda name: print("imports:", gc.isenabled()) or imported(name)
cli.{call}
print(gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    imports = [f"imports: {not frozen}"] * 2
    assert done.stdout.splitlines() == [*imports, f"True {frozen}", "True"], done.stderr
