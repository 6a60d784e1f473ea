"""docs/errors.md quotes messages that the code has."""

import ast
import re

from support.documents import ROOT

ROW = re.compile(r"^\| (.+?) \| .+ \| .+ \|$", re.M)


def texts():
    """Every text of the package, without what is filled in."""
    for path in ROOT.glob("src/segzoo/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_quoted_messages_exist():
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    quoted = [message for cell in ROW.findall(page) for message in re.findall(r"`(.+?)`", cell)]
    assert len(quoted) > 25
    code = list(texts())
    for message in quoted:
        assert any(holds(text, message.split("...")) for text in code), message


def holds(text, parts):
    """Whether the parts follow each other in the text."""
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True
