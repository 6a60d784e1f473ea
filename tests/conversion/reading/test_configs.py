"""Configs are read as literals, never executed, and merged as mmcv merges them."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.config_files import use, write

from segzoo.conversion.errors import ConfigReadError
from segzoo.conversion.reading.configs import read_config_file, read_config_text
from segzoo.conversion.reading.unreadable import cause_of

RESOLVED = """\
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(type='ResNetV1c', depth=50, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='SyncBN')),
    decode_head=dict(type='UPerHead', in_channels=[256, 512, 1024, 2048], dropout_ratio=0.1, align_corners=False),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
custom_imports = dict(imports=['mmseg_custom'], allow_failed_imports=False)
load_from = None  # nothing
optimizer = dict(
    type='AdamW', lr=6e-05, betas=(0.9, 0.999),
    paramwise_cfg=dict(custom_keys={'absolute_pos_embed': dict(decay_mult=0.0)}))
crop_size = (512, 512)
lr_mult = -1
"""

keys = st.text(st.characters(codec="utf-8", exclude_characters="\x00{}"), max_size=6)
literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=20)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name.isidentifier())


def is_keyword(name):
    import keyword

    return keyword.iskeyword(name)


class TestLiterals:
    def test_a_resolved_config_equals_what_python_makes_of_it(self):
        expected: dict = {}
        exec(RESOLVED, {}, expected)
        assert read_config_text(RESOLVED) == expected

    @settings(max_examples=150, deadline=None)
    @given(st.dictionaries(names.filter(lambda name: not is_keyword(name)), literals, max_size=4))
    def test_whatever_repr_writes_is_read_back(self, values):
        text = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        result = read_config_text(text)
        assert result == values
        assert repr(result) == repr(values)  # types and order too: 1 is not True, and a tuple no list

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("x = [dict(a=1)] * 2 + [3]", [{"a": 1}, {"a": 1}, 3]),
            ("n = 18\nx = n * 2 ** 3 // 5 - 1", 27),
            ("x = -0.5 + 768.0 / 896.0", -0.5 + 768.0 / 896.0),
            ("x = [1.0] * 3 + [0.1]", [1.0, 1.0, 1.0, 0.1]),
            ("c = (512, 256)\nx = dict(size=c[0], rest=c[1:])", {"size": 512, "rest": (256,)}),
            ("d = dict(a=1, b=2)\nx = dict(**d, c=3)", {"a": 1, "b": 2, "c": 3}),
            ("d = {'a': 1}\nx = {**d, 'b': 2}", {"a": 1, "b": 2}),
            ("x = dict({'a.b': 1}, c=2)", {"a.b": 1, "c": 2}),
            ("x = dict([('a', 1)])", {"a": 1}),
            ("a, (b, *c) = 1, (2, 3, 4)\nx = [a, b, c]", [1, 2, [3, 4]]),
            ("a = b = 2\nx = a + b", 4),
            ("x = range(0, 8)", [0, 1, 2, 3, 4, 5, 6, 7]),
            ("x = list(range(3)) + [range(6, 0, -2)]", [0, 1, 2, [6, 4, 2]]),
            ("n = 2\nx = range(n * 2)[1:]", [1, 2, 3]),
            ("x = [1]\nx += [2]", [1, 2]),
            ("x = 3\nx *= 2", 6),
            ("x: int = 4", 4),
            ("x = dict(a=dict(b=1))\nx['a']['c'] = 2", {"a": {"b": 1, "c": 2}}),
            ("x = [1, 2]\nx[-1] = 5", [1, 5]),
            ("a = dict(b=1)\nx = dict(a=a)\na['c'] = 2", {"a": {"b": 1, "c": 2}}),  # one object, two names
            ("x = 1\ny = 2\ndel y", 1),
            ("r = 101\nx = f'resnet{r:04d}_{r!r}_v1c'", "resnet0101_101_v1c"),
            ("x = 'iter_%d_%s' % (160000, 'a')", "iter_160000_a"),
            ("x = 'a' 'b' + \"c\"", "abc"),
            ("x = 1 if 2 > 1 and not None else 0", 1),
            ("x = 'a' in ['a'] or 1 / 0", True),
            ("x = 1 < 2 < 3 != 4", True),
            ("x = [*range_, 3]", None),
            ("x = sum([18, 36, 72, 144])", 270),
            ("x = tuple([1, len('ab'), max(3, 4)])", (1, 2, 4)),
            ("x = {1, 2}", {1, 2}),
            ("x = r'\\d'", "\\d"),
            ("x = '\\d'", "\\d"),  # a stray escape, as Windows paths have it, warns nobody
            ("x = ~1 | 6", -2),
            ("x = (\n    1,\n)  # a comment", (1,)),
            ("'''a docstring'''\npass\nx = 1", 1),
            ("x = inf", float("inf")),
            ("\ufeffx = 1", 1),
            ("a = [0.5, 1.0]\nx = [dict(r=r) for r in a]", [{"r": 0.5}, {"r": 1.0}]),
            ("x = [int(32 * i * 0.5) for i in range(1, 5) if i != 2]", [16, 48, 64]),
            ("x = [(a, b) for a in 'pq' for b in range(2)]", [("p", 0), ("p", 1), ("q", 0), ("q", 1)]),
            ("x = [[i * j for j in range(i)] for i in range(3)]", [[], [0], [0, 2]]),
            ("i = 7\nx = {k: v for i, (k, v) in enumerate([('a', 1)])}\nx['i'] = i", {"a": 1, "i": 7}),
            ("x = {c.upper() for c in 'aab'}", {"A", "B"}),
            ("x = sum(i for i in [1, 2]) + sum([1], start=2) + sum((1, 2), 3)", 12),
            ("x = tuple(sorted(reversed([3, 1, 2]), reverse=True))", (3, 2, 1)),
            ("x = list(zip('ab', enumerate((4, 5), start=1)))", [("a", (1, 4)), ("b", (2, 5))]),
            ("x = dict(zip(['a', 'b'], range(2)))", {"a": 0, "b": 1}),
            ("x = [abs(-1), round(2.567, 1), bool([]), float('2'), str(3), int('4'), set([5])]", None),
            ("x = dict(a=dict(b=1, c=2))\nx.update({'a': 3}, d=4)", {"a": 3, "d": 4}),  # not merged, as in Python
            ("x = dict(a=1)\nx.update([('b', 2)])", {"a": 1, "b": 2}),
            ("d = dict(a=1)\nx = d.copy()\nd.pop('a')\nx.setdefault('c', d.get('z', 5))", {"a": 1, "c": 5}),
            ("d = dict(a=1, b=2)\nx = [d.items(), d.keys(), d.values()]", [[("a", 1), ("b", 2)], ["a", "b"], [1, 2]]),
            ("x = [1]\nx.append(3)\nx.extend((4, 5))\nx.insert(1, 2)\nx.remove(5)\nx.reverse()", [4, 3, 2, 1]),
            ("a = [1]\nx = a\na.append(2)", [1, 2]),
            ("x = '{0}-{name:>4}-{0!r}'.format('a', name=7)", None),
            ("x = ','.join(str(i) for i in (1, 2)).split(',')[-1].replace('2', 'b').upper()", "B"),
            ("x = 'iter_20220624_%d.pth' % 3", "iter_20220624_3.pth"),
            (
                "x = []\nfor i, (a, b) in enumerate([(1, 2), (3, 4)]):\n    x += [a * b + i]\nelse:\n    x += [0]",
                [2, 13, 0],
            ),
            ("n = 3\nif n > 4:\n    x = 1\nelif n > 2:\n    x = 2\nelse:\n    x = 3", 2),
            (
                "x = dict(a=1)\nfor k in ('b', 'c'):\n    x[k] = dict(x)",
                {"a": 1, "b": {"a": 1}, "c": {"a": 1, "b": {"a": 1}}},
            ),
            ("import torch.nn as nn\nx = dict(type=nn.SyncBatchNorm)", {"type": "torch.nn.SyncBatchNorm"}),
            ("import torch\nx = {'type': torch.nn.ReLU}", {"type": "torch.nn.ReLU"}),
            ("from mmseg.models import FCNHead as Head\nx = [dict(type=Head)]", [{"type": "mmseg.models.FCNHead"}]),
            ("a = 1\r\nx = dict(\r\n    a=a,\r\n)\r\n", {"a": 1}),
            ("{'x': 1, 'a b': 2}", 1),  # how mmcv prints a config with a key that is no identifier
        ],
    )
    def test_expressions(self, text, value):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if value is None and "range_" not in text:
                expected: dict = {}
                exec(text, {}, expected)
                assert read_config_text(text)["x"] == expected["x"]
            elif value is None:
                with pytest.raises(ConfigReadError, match="'range_' has no value"):
                    use(read_config_text(text))
            else:
                assert read_config_text(text)["x"] == value

    def test_names_with_two_underscores_are_left_out(self):
        assert read_config_text("__a = 1\n_b = 2\n_deprecation_ = dict(expected='y.py')") == {"_b": 2}

    def test_the_result_shares_nothing(self):
        result = read_config_text("a = dict(b=[1])\nc = [a] * 2")
        result["c"][0]["b"].append(2)
        assert result == {"a": {"b": [1]}, "c": [{"b": [1, 2]}, {"b": [1]}]}


class TestBaseFiles:
    def test_dicts_are_merged_key_by_key(self, tmp_path):
        write(
            tmp_path / "_base_",
            model="model = dict(type='E', backbone=dict(type='ResNet', depth=50), head=dict(channels=512))\nkeep = 1",
            data="data = dict(workers=2)\npipeline = [dict(type='Load')]",
        )
        write(
            tmp_path,
            main="_base_ = ['./_base_/model.py', '_base_/data.py']\n"
            "model = dict(backbone=dict(depth=101), head=dict(num_classes=19))\npipeline = []",
        )
        assert read_config_file(tmp_path / "main.py") == {
            "model": {
                "type": "E",
                "backbone": {"type": "ResNet", "depth": 101},
                "head": {"channels": 512, "num_classes": 19},
            },
            "keep": 1,
            "data": {"workers": 2},
            "pipeline": [],
        }

    def test_delete_replaces(self, tmp_path):
        write(
            tmp_path,
            base="opt = dict(type='SGD', lr=1, more=dict(a=1))\nother = dict(a=dict(b=1, c=2))",
            main="_base_ = 'base.py'\nopt = dict(_delete_=True, type='AdamW', more=dict(b=2))\n"
            "other = dict(a=dict(_delete_=True, d=3))\nnew = dict(_delete_=True, x=[dict(_delete_=True, y=1)])",
            same="_base_ = 'base.py'\ntmp = dict(_delete_=True, x=1)\nopt = tmp\nother = tmp",
            no="_base_ = 'base.py'\nopt = dict(_delete_=False, lr=2)",
        )
        result = read_config_file(tmp_path / "main.py")
        assert result["opt"] == {"type": "AdamW", "more": {"b": 2}}
        assert result["other"] == {"a": {"d": 3}}
        assert result["new"] == {"x": [{"y": 1}]}
        same = read_config_file(tmp_path / "same.py")
        assert same["opt"] == same["other"] == {"x": 1}
        assert read_config_file(tmp_path / "no.py")["opt"] == {"type": "SGD", "lr": 2, "more": {"a": 1}}

    def test_values_of_the_base_files(self, tmp_path):
        write(
            tmp_path,
            l1="item1 = [1, 2]\nitem2 = dict(a=0, b=dict(c='deep'))",
            l2="item3 = True",
            mmcv="_base_ = ['./l1.py', './l2.py']\n"
            "x = {{ _base_.item1 }}\ny = dict(a={{_base_.item2.b.c}}, b=[{{ _base_.item3 }}])\nz = '_base_.item1'",
            mmengine="_base_ = ['./l1.py', './l2.py']\n"
            "x = _base_.item1 + [3]\ny = _base_['item2']['b'].c\n_base_.item2.a = 5\n_base_.item2['b']['d'] = 6",
            late="x = _base_.item3\n_base_ = './l2.py'",
            child="_base_ = 'mmcv.py'\nq = {{ _base_.y.b }}",
        )
        mmcv = read_config_file(tmp_path / "mmcv.py")
        assert (mmcv["x"], mmcv["y"], mmcv["z"]) == ([1, 2], {"a": "deep", "b": [True]}, "_base_.item1")
        mmengine = read_config_file(tmp_path / "mmengine.py")
        assert (mmengine["x"], mmengine["y"]) == ([1, 2, 3], "deep")
        assert mmengine["item2"] == {"a": 5, "b": {"c": "deep", "d": 6}}
        assert read_config_file(tmp_path / "late.py")["x"] is True
        assert read_config_file(tmp_path / "child.py")["q"] == [True]

    def test_names_of_a_base_file_are_not_names_of_the_child(self, tmp_path):
        write(tmp_path, base="crop = 1", main="_base_ = 'base.py'\nx = crop")
        with pytest.raises(ConfigReadError, match="a value of a base file is '_base_.crop'"):
            use(read_config_file(tmp_path / "main.py"))

    def test_predefined_variables(self, tmp_path):
        folder = write(
            tmp_path / "it's {here}",
            upernet="a = '{{ fileDirname }}/x'\nb = {{fileBasename}}\n"
            "c = '{{fileBasenameNoExtension}}{{ fileExtname }}'\nd = f'{{ fileBasename }}-{1}'",
        )
        assert read_config_file(folder / "upernet.py") == {
            "a": f"{folder.as_posix()}/x",
            "b": "upernet.py",
            "c": "upernet.py",
            "d": "upernet.py-1",
        }

    def test_update_of_a_base_value_merges(self, tmp_path):
        write(
            tmp_path,
            base="x = dict(a=dict(b=1, c=2), d=3)\ny = [dict(p=dict(q=1))]\nz = 1",
            main="_base_ = 'base.py'\n_base_.x.update(a=dict(b=4), e=5)\ndel _base_.z\nx2 = _base_.x.copy()\n_base_['x'].d = 6\n"
            "for step in _base_.y:\n    step.update(dict(p=dict(r=2)))\nplain = dict(a=dict(b=1))\n"
            "plain.update(a=dict(c=2))",
        )
        assert read_config_file(tmp_path / "main.py") == {
            "x": {"a": {"b": 4, "c": 2}, "d": 6, "e": 5},
            "x2": {"a": {"b": 4, "c": 2}, "d": 3, "e": 5},
            "y": [{"p": {"q": 1, "r": 2}}],
            "step": {"p": {"q": 1, "r": 2}},
            "plain": {"a": {"c": 2}},
        }

    def test_a_list_of_a_base_file_is_replaced(self, tmp_path):
        write(
            tmp_path,
            base="model = dict(auxiliary_head=[dict(n=1), dict(n=2)], neck=dict(a=1))",
            main="_base_ = 'base.py'\nmodel = dict(auxiliary_head=[dict(m=3)], neck=None)",
        )
        assert read_config_file(tmp_path / "main.py") == {"model": {"auxiliary_head": [{"m": 3}], "neck": None}}

    def test_base_files_of_another_package(self, tmp_path):
        write(
            tmp_path / "more",
            base="_base_ = 'mmseg::_base_/models/a.py'\nmodel = dict(n=2)",
        )
        write(tmp_path, main="_base_ = ['more/base.py', 'mmseg::b.py']\nz = _base_.y")
        files = {"mmseg::_base_/models/a.py": {"model": {"type": "E", "n": 1}}, "mmseg::b.py": {"y": 5}}
        values = read_config_file(tmp_path / "main.py", base_loader=files.get)
        assert values == {"model": {"type": "E", "n": 2}, "y": 5, "z": 5}
        with pytest.raises(
            ConfigReadError, match="base.py, line 1: the base file 'mmseg::_base_/models/a.py' belongs"
        ):
            use(read_config_file(tmp_path / "main.py", base_loader={}.get))

    def test_a_base_file_that_is_not_there_is_missed_where_its_values_are(self, tmp_path):
        write(
            tmp_path,
            main="_base_ = ['_base_/models/a.py', '_base_/datasets/b.py', '_base_/schedules/c.py', 'mmdet::_base_/default_runtime.py']\n"
            "model = dict(n=2)\nx = 1",
            own="_base_ = ['_base_/datasets/b.py', 'mmseg::_base_/models/a.py']\n"
            "model = dict(_delete_=True, n=2)\ntest_pipeline = []",
            known="_base_ = ['gone.py', 'model.py']",
            model="model = dict(n=1)",
        )
        values = read_config_file(tmp_path / "main.py")
        assert list(values) == ["test_pipeline", "model", "x"] and values["x"] == 1
        assert "'_base_/models/a.py' does not exist" in str(cause_of(values["model"]))
        assert "'_base_/datasets/b.py' does not exist" in str(cause_of(values["test_pipeline"]))
        assert read_config_file(tmp_path / "own.py") == {"model": {"n": 2}, "test_pipeline": []}
        values = read_config_file(tmp_path / "known.py")
        assert values["model"] == {"n": 1} and "'gone.py'" in str(cause_of(values["test_pipeline"]))

    def test_base_files_that_are_imported(self, tmp_path):
        write(tmp_path / "a" / "_base_", model="from x import Net\nmodel = dict(type=Net, m=dict(n=1, k=2))\ny = [1]")
        write(
            tmp_path / "a",
            middle="from mmengine.config import read_base\nwith read_base():\n    from ._base_.model import *\ny += [2]",
        )
        write(
            tmp_path / "b",
            main="with read_base():\n    from ..a.middle import model, y as z\n    from mmseg.configs.c.d_e import *\n"
            "    from mmdet.e import f\nmodel.update(dict(m=dict(n=3)))",
            circle="with read_base():\n    from .circle import *",
            other="with read_base():\n    x = 1",
            none="with read_base():\n    from ..a.middle import w",
        )
        files = {"mmseg::c/d_e.py": {"u": 4}}
        values = read_config_file(tmp_path / "b" / "main.py", base_loader=files.get)
        f = values.pop("f")
        assert values == {"model": {"type": "x.Net", "m": {"n": 3, "k": 2}}, "z": [1, 2], "u": 4}
        assert "'mmdet::e.py' belongs to another package" in str(cause_of(f))
        for name, cause in (("circle", "circle.py, line 2.* in a circle"), ("other", "'x = 1' under 'with read_base")):
            with pytest.raises(ConfigReadError, match=cause):
                read_config_file(tmp_path / "b" / f"{name}.py")
        with pytest.raises(ConfigReadError, match="'../a/middle.py' has no 'w'"):
            use(read_config_file(tmp_path / "b" / "none.py"))

    def test_a_byte_order_mark_and_the_line_ends_of_windows(self, tmp_path):
        (tmp_path / "main.py").write_bytes(b"\xef\xbb\xbf_base_ = [\r\n    'base.json']\r\nx = 1\r\n")
        (tmp_path / "base.json").write_bytes(b'\xef\xbb\xbf{"y": 2}\r\n')
        assert read_config_file(tmp_path / "main.py") == {"x": 1, "y": 2}

    def test_a_json_base(self, tmp_path):
        (tmp_path / "base.json").write_text(json.dumps({"model": {"type": "E", "n": 1}}))
        write(tmp_path, main="_base_ = 'base.json'\nmodel = dict(n=2)")
        assert read_config_file(tmp_path / "main.py") == {"model": {"type": "E", "n": 2}}

    @pytest.mark.parametrize(
        ("files", "cause"),
        [
            ({"main": "_base_ = 'gone.py'"}, "main.py, line 1: the base file 'gone.py' does not exist"),
            ({"main": "_base_ = 'main.py'"}, "in a circle"),
            ({"main": "_base_ = 'b.py'", "b": "_base_ = 'main.py'"}, "b.py, line 1.*in a circle"),
            ({"main": "_base_ = ['b.py', 'c.py']", "b": "x = 1", "c": "x = 2"}, "'b.py' and 'c.py' both set 'x'"),
            ({"main": "_base_ = 'b.py'\nx = dict(a=1)", "b": "x = [1]"}, "'x' is a dict here and a list in the base"),
            ({"main": "_base_ = 'b.py'\nx = dict(a=dict(b=1))", "b": "x = dict(a=1)"}, "'x.a' is a dict"),
            ({"main": "_base_ = 'mmdet::a.py'"}, "belongs to another package"),
            ({"main": "_base_ = 3"}, "must be a file name"),
            ({"main": "_base_ = 'b.py'\n_base_ = 'c.py'", "b": "", "c": ""}, "assigned twice"),
            ({"main": "_base_ = 'b.py'\nx = _base_", "b": ""}, "'_base_' alone is no value"),
            ({"main": "_base_ = 'b.py'\nx = _base_.y.z", "b": "y = dict()"}, "no key 'z'"),
            ({"main": "_base_ = '.'"}, "a folder"),
            ({"main": "_base_ = 'b.py'", "b": "\nx = f()"}, "b.py, line 2: the call of 'f'"),
            ({"main": "_base_ = 'b.py'\nx = dict(a=1)", "b": "x = f()"}, "b.py, line 1: the call of 'f'"),
            ({"main": "_base_ = 'b.py'\n_base_.update(f())", "b": "x = 1"}, "main.py, line 2: the call of 'f'"),
            ({"main": "if 1:\n    _base_ = 'gone.py'"}, "line 2: the base file 'gone.py' does not exist"),
            ({"main": "_base_ = f()"}, "main.py, line 1: the call of 'f'"),
            ({"main": "_base_, x = 'a', 1"}, "not assigned alone"),
            ({"main": "try:\n    _base_ = 'b.py'\nfinally:\n    x = 1", "b": ""}, "'try' is not read"),
            ({"main": "_base_ = 'b.py'\ndel _base_.a", "b": "x = 1"}, "no key 'a'"),
            ({"main": "_base_ = 'b.py'\nx = _base_.y | {}", "b": "y = dict()"}, "'|' of the dicts of a base"),
        ],
    )
    def test_errors(self, tmp_path, files, cause):
        write(tmp_path, **files)
        with pytest.raises(ConfigReadError, match=cause):
            use(read_config_file(tmp_path / "main.py"))

    def test_files_that_multiply_end(self, tmp_path):
        write(tmp_path, f0="x = 1")
        for level in range(1, 19):
            (tmp_path / f"f{level}.py").write_text(f"_base_ = ['f{level - 1}.py', './f{level - 1}.py']")
        write(tmp_path, g0="")
        for level in range(1, 19):
            (tmp_path / f"g{level}.py").write_text(f"_base_ = ['g{level - 1}.py', './g{level - 1}.py']")
        with pytest.raises(ConfigReadError, match="both set 'x'"):
            read_config_file(tmp_path / "f18.py")
        with pytest.raises(ConfigReadError, match="more than 2000000 values"):
            read_config_file(tmp_path / "g18.py")

    def test_files_that_are_no_configs(self, tmp_path):
        (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00x")
        (tmp_path / "list.json").write_text("[1]")
        (tmp_path / "bad.json").write_text("{")
        (tmp_path / "bad.yaml").write_text("a: [1")
        (tmp_path / "tags.yml").write_text("a: !!python/object/apply:os.getcwd []")
        (tmp_path / "a.toml").write_text("a = 1")
        for name, cause in (
            ("binary.py", "not text in UTF-8"),
            ("list.json", "not a dict"),
            ("bad.json", "not JSON"),
            ("bad.yaml", "not YAML"),
            ("tags.yml", "not YAML .*could not determine a constructor"),
            ("a.toml", "'.toml' files are not read"),
            ("none.py", "no such file"),
            (".", "a folder"),
        ):
            with pytest.raises(ConfigReadError, match=cause):
                read_config_file(tmp_path / name)

    def test_a_loader_for_a_text(self):
        bases = {"a.py": {"model": {"type": "E", "n": 1}}}
        text = "_base_ = 'a.py'\nmodel = dict(n=2)\nt = _base_.model.type"
        assert read_config_text(text, base_loader=bases.__getitem__) == {"model": {"type": "E", "n": 2}, "t": "E"}
        assert bases == {"a.py": {"model": {"type": "E", "n": 1}}}
