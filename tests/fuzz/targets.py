"""What is fuzzed: the two readers of foreign bytes, each as a function that takes bytes and raises for what is wrong.

Whatever the bytes are, a reader gives a value or a SegZooError, and runs nothing. The functions here let a SegZooError
pass as an answer and everything else out. `seeds` gives bytes to begin from, which reach far into the readers.
"""

import argparse
import contextlib
import io
import json
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

from segzoo.conversion.reading.checkpoints import all_finite, read_checkpoint
from segzoo.conversion.reading.configs import copy_tree, read_config_file, read_config_text
from segzoo.conversion.reading.unreadable import is_unreadable
from segzoo.errors import SegZooError

TESTS = Path(__file__).parent.parent

_FORBIDDEN = (
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.putenv",
    "os.system",
    "pickle.find_class",
    "socket.",
    "subprocess.",
)
_SUFFIXES = (".py", ".json", ".yaml")
_STORAGES = [bytes(range(16 * number, 16 * number + 16)) * 4 for number in range(4)]
_watched: list[str] | None = None


class Ran(Exception):
    """Something was run that only a file can have asked for."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and event.startswith(_FORBIDDEN):
        _watched.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def nothing_runs() -> Iterator[None]:
    """Raises `Ran` at the end of a block in which a process, a connection or a foreign unpickler began."""
    global _watched
    _watched = events = []
    try:
        yield
    finally:
        _watched = None
    if events:
        raise Ran("; ".join(events))


def read_config(data: bytes, folder: Path) -> Any:
    """Reads bytes as a config, and translates it.

    Args:
        data: the first byte chooses between a text in a checkpoint (0) and a .py, .json or .yaml file (1 to 3); the
            others are the text.
        folder: an empty folder, whose files are written over.

    Returns:
        the values; None where the answer is a SegZooError.
    """
    kind, body = (data[0] % 4 if data else 0), data[1:]
    with nothing_runs(), contextlib.suppress(SegZooError):
        if kind == 0:
            values = read_config_text(body.decode("utf-8", "replace"))
        else:
            path = folder / f"config{_SUFFIXES[kind - 1]}"
            path.write_bytes(body)
            values = read_config_file(path)
        _walk(values)
        _translate(values)
        return values
    return None


def read_pickle(data: bytes, folder: Path) -> Any:
    """Reads bytes as a checkpoint, all of its tensors included, and the config in it.

    Args:
        data: the first byte chooses between a whole file (0), the list of tensors in a zip file that is right
            otherwise (1), and the same in a file from before torch 1.6 (2); the others are this file or list.
        folder: an empty folder, whose files are written over.

    Returns:
        the checkpoint; None where the answer is a SegZooError.
    """
    kind, body = (data[0] % 3 if data else 0), data[1:]
    path = folder / "checkpoint.pth"
    path.write_bytes(body if kind == 0 else in_zip(body) if kind == 1 else in_legacy(body))
    with nothing_runs(), contextlib.suppress(SegZooError):
        checkpoint = read_checkpoint(path)
        for tensor in checkpoint.state_dict.values():
            all_finite(tensor)
        _walk(checkpoint.meta)
        if checkpoint.config_text:
            _translate(read_config_text(checkpoint.config_text))
        if checkpoint.config:
            _translate(copy_tree(checkpoint.config, "checkpoint"))
        return checkpoint
    return None


TARGETS: dict[str, Callable[[bytes, Path], Any]] = {"config": read_config, "pickle": read_pickle}


def _walk(value: Any) -> None:
    """Visits a tree of values as those do who read a config."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if is_unreadable(value) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value


def _translate(values: dict[str, Any]) -> None:
    if "model" in values:
        from segzoo.conversion.translate import translate_config

        translate_config(values)


def in_zip(pickled: bytes) -> bytes:
    """A file of torch.save since 1.6 with this list of tensors, and four storages of 64 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for number, storage in enumerate(_STORAGES):
            archive.writestr(f"archive/data/{number}", storage)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def in_legacy(pickled: bytes) -> bytes:
    """A file of torch.save before 1.6 with this list of tensors, and four storages of 16 floats."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    # Storages that the list does not name are not in the file.
    keys = [str(number) for number in range(len(_STORAGES)) if b"X\x01\0\0\0%d" % number in pickled]
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    storages = [(16).to_bytes(8, "little") + _STORAGES[int(key)] for key in keys]
    return b"".join([*head, pickled, pickle.dumps(keys, 2), *storages])


# Seeds


def seeds(target: str) -> Iterator[bytes]:
    """Bytes for a target of `TARGETS` that are read without an error, or almost."""
    if target == "config":
        yield from _configs()
    else:
        yield from _checkpoints()


def _configs() -> Iterator[bytes]:
    for path in sorted((TESTS / "conversion" / "printed").glob("*.txt")):
        yield b"\0" + path.read_bytes()
    with (TESTS / "conversion" / "cases.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            config = json.loads(line)["config"]
            yield b"\0" + (config if isinstance(config, str) else json.dumps(config)).encode()
    yield from (b"\0" + text.encode() for text in _TEXTS)
    values = {
        "model": {"type": "EncoderDecoder", "backbone": {"depth": 50, "strides": [1, 2, 2]}},
        "n": [None, 0.5, True],
    }
    yield b"\2" + json.dumps(values).encode()
    yield b"\3model: {type: E, depth: 50}\nx: &a [1, 2]\ny: *a\nz: {<<: {a: 1}, b: 2}\n"
    yield b"\1_base_ = 'config.json'\nmodel = dict(_delete_=True, type='E')\nx = '{{ fileDirname }}'\n"


_TEXTS = (
    "x = [dict(a=i, b=f'{i:>4}') for i in range(4) if i % 2]\ny = {**x[0], 'c': (1, *x)}\nz = x[0]['a'] + -1 ** 2",
    "for i, j in enumerate(['a', 'b']):\n    x = '%s-%d' % (j, i)\nif x == 'b-1':\n    y = x.upper().split('-')\nelse:\n    y = 3",
    "x = dict(type='A')\nx.update(b=[1])\nx['b'].append(len(x))\ndel x['type']\ny = '{0} {a!r:>10}'.format(1, a=2)\nz = sorted(set(x['b']))",
    "import a.b as c\nfrom d import e\nx = dict(type=c.F, y=e)\ndef f(): pass\nz = f()\nw = (lambda q: q)(1)\nq: int = 3\nq += 1",
    "x = [1, 2, 3]\nx[0], *y = x\ns = x[::-1]\nt = zip(x, s)\nu = max(x, default=0) if x else None\nv = 1 << 4 | ~3 & 0xff\nw = not x or 1 <= 2 < 3",
)


@contextlib.contextmanager
def _mmengine() -> Iterator[Callable[..., Any]]:
    """Gives ``make(name, *arguments, state=None)`` for an object that pickles as one of a class of mmengine's configs."""
    names = ["mmengine", "mmengine.config", "mmengine.config.config"]
    modules = {name: types.ModuleType(name) for name in names}

    def make(name: str, *arguments: Any, state: Any = None) -> Any:
        def reduce(self: Any, protocol: int) -> tuple[Any, ...]:
            return (kind, arguments) if state is None else (kind, arguments, state)

        kind = type(name, (), {"__module__": names[-1], "__reduce_ex__": reduce, "__init__": lambda self: None})
        setattr(modules[names[-1]], name, kind)
        return kind()

    with mock.patch.dict(sys.modules, modules):
        yield make


def _pickled(value: Any) -> bytes:
    """The list of tensors that torch.save writes for ``value``."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


def _checkpoints() -> Iterator[bytes]:
    tensors = [torch.frombuffer(bytearray(storage), dtype=torch.float32) for storage in _STORAGES]
    state = OrderedDict(
        zip(("backbone.conv1.weight", "backbone.bn1.bias", "decode_head.conv_seg.bias"), tensors, strict=False)
    )
    config = "model = dict(type='EncoderDecoder', backbone=dict(type='ResNet', depth=18))\n"
    values = {
        "model": {"type": "EncoderDecoder", "backbone": {"type": "ResNet", "out_indices": (0, 1)}, "train_cfg": {}}
    }
    with _mmengine() as make:
        for content in _contents(state, config, values, make):
            pickled = _pickled(content)
            yield b"\1" + pickled
            # There, the place of a storage has a sixth part, None.
            yield b"\2" + re.sub(rb"t(q.|r.{4})Q", rb"Nt\1Q", pickled, flags=re.DOTALL)
    for form in (True, False):
        buffer = io.BytesIO()
        torch.save({"state_dict": state, "meta": {"config": config}}, buffer, _use_new_zipfile_serialization=form)
        yield b"\0" + buffer.getvalue()
    yield b"\0" + safetensors_bytes(dict(state), {"config": config})
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.pth", in_zip(_pickled(state)))
    yield b"\0" + outer.getvalue()


def _contents(state: Any, config: str, values: Any, make: Callable[..., Any]) -> list[Any]:
    """What checkpoints of every layout hold."""
    tensors = list(state.values())
    return [
        state,
        {
            "state_dict": state,
            "meta": {"config": config, "CLASSES": ("a", "b"), "PALETTE": [[0, 1, 2], [3, 4, 5]], "epoch": 1},
        },
        {
            "model": {f"module.{key}": value for key, value in state.items()},
            "model_ema": state,
            "optimizer": {"state": {}},
        },
        {"state_dict": {**state, **{f"ema_{key.replace('.', '_')}": value for key, value in state.items()}}},
        {"student": state, "teacher": state, "epoch": 2**70, "lr": 1e-4, "on": True, "none": None},
        {"state_dict": state, "meta": make("ConfigDict", {"config": values})},
        {"state_dict": state, "cfg": make("Config", state={"_cfg_dict": values})},
        {"state_dict": state, "args": argparse.Namespace(config=PurePosixPath("a/b.py"), lr=np.float64(0.1))},
        {
            "state_dict": state,
            "message_hub": {
                "runtime_info": {"cfg": config, "dataset_meta": {"classes": ["a"], "palette": np.arange(3)[None]}}
            },
        },
        {
            "state_dict": torch.nn.ParameterDict({"a": torch.nn.Parameter(tensors[0])}).state_dict(),
            "size": torch.Size([1, 2]),
        },
        {
            "state_dict": state,
            "set": {1, 2},
            "bytes": b"ab",
            "complex": 1j,
            "nested": [[({"a": [1]},)]],
            "dtype": torch.float16,
        },
    ]
