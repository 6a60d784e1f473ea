"""Every code block of README.md, CONTRIBUTING.md and docs/: it runs, or at least its options exist."""

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.documents import GENERATED, PAGES, ROOT, blocks, inline_commands, make_reader_folder, segzoo_words

from segzoo.commands import cli

LANGUAGES = {"python", "bash", "yaml", "json", "text"}
NAMES = [page.name for page in PAGES]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory):
    return make_reader_folder(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def here(reader_folder, tmp_path, monkeypatch):
    """A copy of the reader's folder, in which the test runs."""
    shutil.copytree(reader_folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def parser_of(command):
    assert command in cli.COMMANDS, f"segzoo has no subcommand {command}"
    parser = argparse.ArgumentParser(prog=f"segzoo {command}")
    importlib.import_module(f"segzoo.commands.{command}").add_arguments(parser)
    parser.add_argument("--traceback", action="store_true")
    return parser


def flags_of(parser):
    """All flags of a parser and of its actions."""
    flags = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags |= set().union(*map(flags_of, action.choices.values()))
    return flags


def check_other_program(words):
    """Commands of other programs: what they name in this repository exists."""
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
        case ["pip", "install", *things] | [_, "-m", "pip", "install", *things]:
            named = [e for thing in things for group in re.findall(r"\[(.*?)\]", thing) for e in group.split(",")]
            assert set(named) <= EXTRAS.keys(), named
        case ["python" | ".venv/bin/python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file() or script == "my_model.py", script
        case _:
            known = {"accelerate", "cd", "git", "python", "python3", "torchrun", "docker", ".venv/bin/python", "nohup"}
            assert words[0] in known, f"{words[0]}: a program that no page has named before"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_command_lines_exist(page, capsys):
    parsers = {}
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        assert block.language in LANGUAGES, f"{where}: say which language it is"
        assert block.test in ("", "slow") or re.match(r"no, \w+ \w+|file [\w.]+$", block.test), (
            f"{where}: {block.test!r}"
        )
        for words in block.commands() if block.language == "bash" else ():
            arguments = segzoo_words(words)
            if arguments is None:
                check_other_program(words)
                continue
            if not arguments[0].startswith("-"):
                parser = parsers.setdefault(arguments[0], parser_of(arguments[0]))
                try:
                    parser.parse_args([word for word in arguments[1:] if word != "..."])
                except SystemExit as end:
                    assert end.code == 0, f"{where}: {shlex.join(words)}\n{capsys.readouterr().err}"
    for command in inline_commands(page):
        name, *rest = command.split()[1:]
        if name in ("ACTION", "COMMAND", "..."):
            continue
        parser = parsers.setdefault(name, parser_of(name))
        if name == "data" and rest and rest[0] != "ACTION":
            actions = importlib.import_module("segzoo.commands.data").ACTIONS
            assert rest[0] in actions, f"{page.name}: `{command}`"
        flags = {re.sub(r"[^\w-].*$", "", word) for word in rest if word.startswith("--")}
        assert flags <= flags_of(parser), f"{page.name}: `{command}` has {flags - flags_of(parser)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_indented_blocks_hold_no_commands(page):
    """Blocks are fenced, so that their language is known and these tests find them; of generated pages the options are checked."""
    if page.name in GENERATED:
        return
    outside = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.search(r"\n\n {4}(segzoo|python|pip|accelerate|make|from|import) ", outside)


def run_blocks(page, *, slow):
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.runs or (block.slow and not slow):
            continue
        if block.test.startswith("file "):
            Path(block.test.removeprefix("file ")).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, page.name, "exec"), namespace)
        elif block.language == "bash":
            for words in block.commands():
                if words[0] == "segzoo":
                    run_command(words, f"{page.name}, line {block.line}: {shlex.join(words)}", alone=block.slow)


def run_command(words, where, *, alone):
    if alone:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{where}\n{done.stderr[-2000:]}"
    else:
        assert cli.main(words[1:]) == 0, where


def runnable(*, slow):
    """The pages with blocks that run: all of them, or those with slow ones."""
    return [
        page
        for page in PAGES
        if any(b.runs and b.language in ("python", "bash") and b.slow is slow for b in blocks(page))
    ]


@pytest.mark.parametrize("page", runnable(slow=False), ids=lambda page: page.name)
def test_blocks_run(page, here):
    run_blocks(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable(slow=True), ids=lambda page: page.name)
def test_all_blocks_run(page, here):
    run_blocks(page, slow=True)


@pytest.mark.parametrize("command", ["convert", "evaluate"])
def test_the_page_of_a_command_has_all_its_options(command):
    text = (ROOT / "docs" / f"{command}.md").read_text(encoding="utf-8")
    hidden = {"--help", "--traceback"}
    missing = [
        action.option_strings
        for action in parser_of(command)._actions
        if action.option_strings
        and not hidden & set(action.option_strings)
        and not any(re.search(rf"`(?:[^`\n]*\s)?{name}\b", text) for name in action.option_strings)
    ]
    assert missing == []
