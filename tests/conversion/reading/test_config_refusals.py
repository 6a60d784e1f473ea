"""What a config must not hold is refused with its line, and what cannot be read stands in the way only of those who use it."""

import time
from functools import partial

import pytest
from support.config_files import use, write

from segzoo.conversion.errors import ConfigReadError, ConversionError
from segzoo.conversion.reading import configs
from segzoo.conversion.reading.configs import read_config_file, read_config_text
from segzoo.conversion.reading.limits import MAX_VALUES, Budget
from segzoo.conversion.reading.unreadable import cause_of, is_unreadable
from segzoo.errors import SegZooError

REFUSED = [
    ("with read_base():\n    from .a import *", "builds on base files \\(a.py\\), and it has no folder"),
    ("x = lambda: 1", "'lambda: 1' is not read"),
    ("x = (y := 1)", "'\\(y := 1\\)' is not read"),
    ("import os\nx = os", "'os' is a module that the file imports"),
    ("def f():\n    return 1\nx = f()", "'f'"),
    ("class A:\n    pass\nx = A", "'A' is a class of the file"),
    ("from a import sum\nx = sum([1])", "'from a import sum' is not read"),
    ("def len(x):\n    return 7\nx = len([1])", "call of 'len'"),
    ("from a.b import c as x", "'from a.b import c' is not read"),
    ("while True:\n    x = 1", "'while' loop is not read"),
    ("try:\n    x = 1\nfinally:\n    pass", "'try' is not read"),
    ("with open('f') as f:\n    x = f.read()", "'with' is not read"),
    ("for i in (1, 2):\n    x = i\n    break", "'break'"),
    ("for x in f():\n    pass", "call of 'f'"),
    ("if f():\n    x = 1", "call of 'f'"),
    ("x = [f(i) for i in 'ab']", "call of 'f'"),
    ("x = [1 for i in 3]", "a int has no items"),
    ("x = [i for i in 'ab']\nx = i", "'i' has no value"),
    ("x = 'a'.__class__()", "call of ''a'.__class__'"),
    ("x = 'a'.encode()", "call of ''a'.encode'"),
    ("x = [1].__len__()", "call of '\\[1\\].__len__'"),
    ("x = '{0.__class__}'.format(1)", "'{0.__class__}' in a format is not read"),
    ("x = '{0[a]}'.format({'a': 1})", "in a format is not read"),
    ("x = sorted([2, 1], key=len)", "'len' has no value"),
    ("x = sum([], start=[])", "'sum' of anything but numbers"),
    ("x = 0\nx += f()", "call of 'f'"),
    ("x = {f()}", "call of 'f'"),
    ("x = str([f()])", "call of 'f'"),
    ("x = f'{[f()]}'", "call of 'f'"),
    ("x = sorted([f(), 1])", "call of 'f'"),
    ("x = dict(**f())", "call of 'f'"),
    ("x = dict(a=1)\nx.update(f())", "call of 'f'"),
    ("x = dict(a=1)\ny = x\ny.update(f())", "call of 'f'"),
    ("x = [1]\nx.append(f())", "call of 'f'"),
    ("x = [1]\nx.merge(3)", "call of 'x.merge'"),
    ("x = [1]\nf(x)", "call of 'f'"),
    ("x = dict(a=[1])\na.b.f(q=x['a'])", "call of 'a.b.f'"),
    ("x = [1]\ny = f(x.pop())", "call of 'f'"),
    ("x = dict(a=1)\nx['a'] = f()", "call of 'f'"),
    ("x = dict(a=1)\nx[f()] = 1", "call of 'f'"),
    ("x = [[1]]\nfor y in x:\n    y.append(f())", "call of 'f'"),
    ("x = [1]\nfor y in f():\n    x.append(y)", "call of 'f'"),
    ("x = 1\ndel x, y", "'del' of 'y'"),
    ("x = __import__('os').system('true')", "call of '__import__' is not read"),
    ("x = os.path.join('a', 'b')", "call of 'os.path.join'"),
    ("x = open('/etc/passwd')", "call of 'open'"),
    ("x = eval('1')", "call of 'eval'"),
    ("x = getattr(1, 'real')", "call of 'getattr'"),
    ("x = range('3')", "'range' takes whole numbers"),
    ("x = range(True)", "'range' takes whole numbers"),
    ("x = range()", "range expected at least 1 argument"),
    ("x = range(0, 3, 0)", "must not be zero"),
    ("x = range(stop=3)", "no keyword arguments"),
    ("x = sum([[1], [2]], [])", "'sum' of anything but numbers"),
    ("x = torch.float16", "'torch.float16' is an object of a module"),
    ("x = ().__class__.__base__", "a tuple has no keys"),
    ("x = ''.__class__", "a str has no keys"),
    ("x = undefined", "'undefined' has no value"),
    ("x = {{ fileUnknown }}", "no known variable"),
    ("x = {{ _base_.y }}", "no base file is named before"),
    ("x = _base_.y", "no base file is named before"),
    ("x = {{$HOME:/root}}", "environment variables"),
    ("x = '{{ $HOME:/root }}'", "environment variables"),
    ("_base_ = 'a.py'", "no folder to find them in"),
    ("x = 1 / 0", "division by zero"),
    ("x = {}['a']", "no key 'a'"),
    ("x = [1][2]", "index out of range"),
    ("x = 'a' + 1", "can only concatenate"),
    ("x = -'a'", "bad operand"),
    ("x = {[]: 1}", "unhashable"),
    ("x = {**[1]}", "cannot be spread"),
    ("a, b = 1, 2, 3", "3 values are unpacked into 2 names"),
    ("a, b = 1", "a int has no items"),
    ("x = 1 @ 2", "MatMult"),
    ("x = (1", "not Python"),
    ("x = 1\x00", "not Python"),
    ("/home/me/config.py\nx = 1", "not Python"),
]
IMPORTS = "for i in range(100000):\n    from m import a" + ", a" * 10000
BOMBS = [
    "x = [0] * 10**12",
    "x = 10**12 * [0]",
    "x = 9**9**9",
    "x = 'a' * 10**10",
    "x = b'a' * 10**10",
    "x = ((0,) * 1000000, (0,) * 1000000, (0,) * 1000000)",
    "x = 1 << 10**9",
    "x = '%1000000000d' % 1",
    "x = '%(a)1000000000d' % dict(a=1)",
    "x = '%*d' % (1000000000, 1)",
    "x = f'{1:1000000000}'",
    "x = range(1000000000)",
    "x = range(-(10**300), 0)",
    "w = 1000000000\nx = f'{1:{w}}'",
    "x = 0x" + "f" * 1000,
    "a = [0] * 1000\nb = [a] * 1000\nx = [b] * 1000",
    "a = ['lol'] * 10\n" + "\n".join(f"{chr(98 + i)} = [{chr(97 + i)}] * 10" for i in range(9)),
    "a = 'ha'\n" + "a = a + a\n" * 60,
    "a = [1]\n" + "a += a\n" * 60,
    "a = 3\n" + "a *= a\n" * 40,
    "a = [1]\na[0] = a\nb = a",
    "a = [1]\na[0] = a",
    "x = " + "[" * 150 + "]" * 150,
    "x = " + "[" * 5000 + "]" * 5000,
    "x = " + "1+" * 100_000 + "1",
    "x = " + "-" * 100_000 + "1",
    "x = a" + "[0]" * 100_000,
    "x = '" + "a" * 2_000_000 + "'",
    "x = [0 for i in range(1000000000)]",
    "x = [0 for i in range(10000) for j in range(10000)]",
    "x = [[0] * 1000 for i in range(100000)]",
    "x = {i: [0] * 1000 for i in range(100000)}",
    "x = [0 for i in range(1000000) if 0]\ny = [0 for i in range(1000000) if 0]",
    "for i in range(100000):\n    for j in range(100000):\n        pass",
    "for i in range(1000000):\n    f(i)",
    "for i in range(1000000):\n    x = f(i)",
    "for i in range(100000):\n    for j in ():\n        x = 1" + ", 1" * 10000,
    "for i in range(100000):\n    (a" + ", a" * 10000 + ") = f()",
    IMPORTS,
    "for i in range(100000):\n    x = [0 for (a" + ", a" * 10000 + ") in ()]",
    "x = [0 for i in range(100000) if 1 or (1" + ", 1" * 10000 + ")]",
    "if a:\n    x = 1\n" + "elif a:\n    x = 1\n" * 10000,
    "if 0:\n    x = 1\n" + "elif 0:\n    x = 1\n" * 10000,
    "x" + ".a" * 10000 + " = 1",
    "x = [1]\nfor i in range(100):\n    x += x",
    "x = [1]\nfor i in range(100):\n    x.extend(x)",
    "x = 'a'\nfor i in range(100):\n    x = x + x",
    "x = dict(a=1)\nx.update(a=x)\ny = x",
    "x = [1]\nx.append(x)",
    "x = 'a'.center(1000000000)",
    "x = 'a'.ljust(width)\nwidth = 1\nx = 'a'.zfill(1000000000)",
    "x = ('a' * 9999).replace('a', 'b' * 9999)",
    "x = ('a' * 100000).replace('', 'b' * 10)",
    "x = ('a' * 9999).join(['b'] * 100000)",
    "x = 'ab'.join('c' * 60000000)",
    "x = '{:>1000000000}'.format(1)",
    "x = '{:{w}}'.format(1, w=1000000000)",
    "x = ('{0}' * 3000).format('a' * 1000000)",
    "x = '{!r}'.format(['a' * 1000000] * 10)",
    "x = ('%(a)s' * 1900) % dict(a='b' * 1000000)",
    "x = '%.1000000000f' % 1.5",
    "x = '%01000000000d' % 1",
    "x = '%((a)b)1000000000d' % {'(a)b': 1}",
    "x = f'{1.5:.1000000000f}'",
    "x = round(5, -1000000000)",
    "x = round(5, ndigits=-1000000000)",
    "x = list('a' * 60000000)",
    "x = [*('a' * 60000000)]",
    "a = 'a' * 60000000\nx = enumerate(a)",
    "x = ('a' * 60000000).split('a')",
    "x = str([2 ** 1000] * 1000000)",
    "x = set(i * (2 ** 61 - 1) for i in range(100000))",
    "x = {i * (2 ** 61 - 1): 0 for i in range(100000)}",
    "x = {" + "".join(f"{i * (2**61 - 1)}: 0, " for i in range(40000)) + "}",
]


class TestRefusals:
    @pytest.mark.parametrize(("text", "cause"), REFUSED, ids=[text.split("\n")[0] for text, _ in REFUSED])
    def test_what_is_not_a_literal_is_refused_with_its_line(self, text, cause):
        with pytest.raises(ConfigReadError, match=cause) as caught:
            use(read_config_text("# first\n" + text, filename="some.py"))
        assert caught.value.line in range(2, 6) or "\x00" in text
        assert str(caught.value).startswith("some.py")
        assert "\n" not in str(caught.value)

    def test_the_errors_are_the_library_s(self):
        assert issubclass(ConfigReadError, ConversionError) and issubclass(ConversionError, SegZooError)

    def test_nothing_is_executed(self, tmp_path):
        target = tmp_path / "made"
        for text in (
            f"x = __import__('pathlib').Path({str(target)!r}).touch()",
            f"import pathlib\npathlib.Path({str(target)!r}).touch()",
            f"x = f\"{{open({str(target)!r}, 'w')}}\"",
            f"class A:\n    open({str(target)!r}, 'w')",
            f"@open({str(target)!r}, 'w')\ndef f(): pass",
            f"x = [open({str(target)!r}, 'w') for _ in 'a']",
        ):
            read_config_text(text)
        assert not target.exists()

    @pytest.mark.parametrize("text", BOMBS, ids=[text.replace("\n", ";")[:40] for text in BOMBS])
    def test_bombs_end_in_an_error(self, text, monkeypatch):
        """With a twentieth of the budget, and so in a twentieth of the time."""
        monkeypatch.setattr(configs, "Budget", partial(Budget, MAX_VALUES // 20))
        start = time.process_time()  # other programs may keep the cores busy
        with pytest.raises(ConfigReadError):
            read_config_text(text)
        assert time.process_time() - start < 10  # less than a second on a slow machine

    @pytest.mark.parametrize("text", ["a = [0] * 1000\nb = [a] * 1000\nx = [b] * 1000", IMPORTS])
    def test_the_whole_budget_is_spent_in_seconds(self, text):
        start = time.process_time()
        with pytest.raises(ConfigReadError, match="more than 2000000 values"):
            read_config_text(text)
        assert time.process_time() - start < 60


class TestUnreadable:
    @pytest.mark.parametrize(
        "text",
        [
            "import os, sys\nsys.path.append('.')",
            "from mmseg.models import *",
            "from __future__ import annotations",
            "import torch\ny = torch.float16",
            "y = lambda: 1",
            "print('hello', undefined)",
            "assert f()",
            "def f(a):\n    return a",
            "class A:\n    x = 3",
            "while f():\n    y = 3",
            "with open('f') as y:\n    z = y.read()",
            "try:\n    import a\nexcept ImportError:\n    a = None",
            "for i in f():\n    y = i",
            "if f():\n    y = 2",
            "y = z = f(x)",
            "y, *z = f(x)",
            "y = dict(a=1)\ny.update(f())",
            "y = [f(), x]",
            "y += 1",
            "del y",
            "y = f(a for x in b)",
            "raise ValueError",
            "global x",
            "1 + 1",
            "f('a')",
        ],
    )
    def test_what_nobody_needs_stops_nothing(self, text):
        values = read_config_text(f"x = dict(a=[1])\n{text}\nw = x")
        assert values["x"] == values["w"] == {"a": [1]}
        assert values.keys() <= {"x", "w", "y", "z", "a", "i"}

    def test_what_lies_beside_it_is_read(self):
        values = read_config_text(
            "size = (4, 4)\nmodel = dict(type='E', hook=f(size), parts=[dict(n=1), f(2)], more=(3, f))\n"
            "model['n'] = 2\nlength = len(model['parts'])"
        )
        assert (values["model"]["type"], values["model"]["n"], values["length"]) == ("E", 2, 2)
        assert (values["model"]["parts"][0], values["model"]["more"][0]) == ({"n": 1}, 3)
        for value in (values["model"]["hook"], values["model"]["parts"][1]):
            assert is_unreadable(value)
            assert str(cause_of(value)).startswith("<config>, line 2: the call of 'f' is not read")
        assert is_unreadable(values["model"]["more"][1]) and not is_unreadable(values["model"]["more"][0])

    @pytest.mark.parametrize(
        "use",
        [
            bool,
            str,
            repr,
            len,
            list,
            dict,
            int,
            float,
            hash,
            "{}".format,
            lambda value: isinstance(value, dict),
            lambda value: value == 1,
            lambda value: value in (None, "a"),
            lambda value: value.get("type"),
            lambda value: value["type"],
            lambda value: 2 * value,
            lambda value: value > 1,
        ],
    )
    def test_whoever_uses_it_gets_the_error(self, use):
        value = read_config_text("\nx = f(1)")["x"]
        for _ in range(2):
            with pytest.raises(ConfigReadError, match="<config>, line 2: the call of 'f' is not read"):
                use(value)

    def test_a_value_that_is_assigned_anew_is_whole(self):
        text = "x = f()\nx = 1\ny = dict(a=f())\ny['a'] = 2\nz = dict(a=1)\nf(z)\nz = [3]\nimport w\nw = 4"
        assert read_config_text(text) == {"x": 1, "y": {"a": 2}, "z": [3], "w": 4}

    def test_a_part_that_may_have_changed_leaves_the_rest(self):
        values = read_config_text("x = dict(a=dict(b=1), c=dict(d=2))\nf(x['a'])\ny = [x['c'], 3]")
        assert values["y"] == [{"d": 2}, 3] and values["x"]["c"] == {"d": 2} and is_unreadable(values["x"]["a"])

    def test_the_names_that_an_import_brings_may_be_values(self):
        values = read_config_text("from a import model\nimport b\ndef f(): pass")
        assert list(values) == ["model"] and is_unreadable(values["model"])

    def test_a_child_replaces_what_its_base_file_could_not_say(self, tmp_path):
        write(
            tmp_path,
            base="x = f()\ny = dict(a=f(), b=1)\nz = f()",
            main="_base_ = 'base.py'\nx = 1\ny = dict(a=2)\nz = dict(_delete_=True, a=3)",
        )
        assert read_config_file(tmp_path / "main.py") == {"x": 1, "y": {"a": 2, "b": 1}, "z": {"a": 3}}
