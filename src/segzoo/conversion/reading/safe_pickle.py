"""Loads what torch.save wrote without running anything that a file names.

``torch.load(weights_only=True)`` is the only loader. It builds only what is on a list, and here stand-ins are added to
torch's own list: where a checkpoint of mmcv, mmengine, argparse or NumPy names a class that holds no weights, a plain
value (dict, number, array) or an inert object takes its place. The real classes are neither imported nor called,
stand-ins keep nothing but data, and any other name is an error that mentions it.
"""

import io
import pickletools
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch

from segzoo.conversion.errors import CheckpointError
from segzoo.conversion.reading import archives
from segzoo.conversion.reading.limits import TooMuch
from segzoo.conversion.reading.pickle_walk import PickleWalk
from segzoo.text import listed

MAX_PICKLE_BYTES = 256 << 20
MAX_ARRAY_BYTES = 4 << 20  # colours and names of classes; as a list it takes ten times as much
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, its storage keys


class Inert:
    """Stands for an object that is not needed: accepts any arguments and keeps nothing."""

    def __new__(cls, *arguments: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertMapping:
    """Stands for a subclass of dict: makes a plain OrderedDict with the same items."""

    def __new__(cls, *arguments: Any) -> OrderedDict:  # type: ignore[misc]
        items = arguments[-1] if arguments else ()
        return OrderedDict(items if isinstance(items, dict | list | tuple) else ())


class InertText:
    """Stands for a path or a subclass of str: makes a plain string."""

    def __new__(cls, *parts: Any) -> str:  # type: ignore[misc]
        return "/".join(part for part in parts if isinstance(part, str))


class InertFields:
    """Stands for an object that is a set of named values (argparse.Namespace, mmcv's Config): keeps the values."""

    def __init__(self, *arguments: Any):
        self.fields: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        # mmcv's Config gives (values, filename, text, ...)
        state = state[0] if isinstance(state, tuple) and state else state
        self.fields = dict(dict.items(state)) if isinstance(state, dict) else {}


class ArrayType:
    """Stands for numpy.dtype: keeps the type's text and byte order."""

    def __init__(self, text: Any = "", *flags: Any):
        self.text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
            self.order = order if order in ("<", ">", "|", "=") else "="

    def resolve(self) -> np.dtype | None:
        """The dtype, or None if it is not a plain number, truth value or text."""
        if len(self.text) > 12 or self.text[:1] not in "biufcSU" or not (self.text[1:].isdigit() or not self.text[1:]):
            return None
        try:
            return np.dtype(self.text).newbyteorder("=" if self.order == "|" else self.order)
        except (TypeError, ValueError):
            return None


class ArrayData:
    """Stands for numpy.ndarray: keeps shape, type and bytes, and becomes a real array afterwards (`plain`)."""

    def __init__(self, *arguments: Any):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, tuple) else ()

    def array(self) -> np.ndarray | None:
        """The array, or None if it does not hold plain numbers or text."""
        if len(self.state) != 5:
            return None
        _, shape, kind, columns_first, data = self.state
        dtype = kind.resolve() if isinstance(kind, ArrayType) else None
        if dtype is None or not isinstance(data, bytes) or len(data) > MAX_ARRAY_BYTES or not isinstance(shape, tuple):
            return None
        if not data:  # whatever its shape says
            shape = (0,)
        try:
            return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C").copy()
        except (ValueError, TypeError):
            return None


def _scalar(kind: Any, data: Any = b"") -> Any:
    """Stands for numpy's scalar constructor: a plain Python number or string."""
    dtype = kind.resolve() if isinstance(kind, ArrayType) else None
    if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return None
    return np.frombuffer(data, dtype)[0].item() if dtype.itemsize else ""


def _reconstruct(*arguments: Any) -> ArrayData:
    """Stands for numpy's array constructor; the content is set afterwards."""
    return ArrayData()


def _getattr(*arguments: Any) -> Inert:
    """Stands for builtins.getattr, with which mmengine's HistoryBuffer names its own methods; looks nothing up."""
    return Inert()


_STAND_INS: dict[str, Any] = {
    "builtins.getattr": _getattr,
    **dict.fromkeys(("builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.object"), Inert),
    "mmengine.logging.history_buffer.HistoryBuffer": Inert,
    "mmengine.logging.message_hub.MessageHub": Inert,
    "mmcv.runner.log_buffer.LogBuffer": Inert,
    "mmengine.config.config.ConfigDict": InertMapping,
    "mmcv.utils.config.ConfigDict": InertMapping,
    "addict.addict.Dict": InertMapping,
    "yacs.config.CfgNode": InertMapping,
    "collections.defaultdict": InertMapping,
    "mmengine.config.config.Config": InertFields,
    "mmcv.utils.config.Config": InertFields,
    "argparse.Namespace": InertFields,
    "torch.torch_version.TorchVersion": InertText,
    **dict.fromkeys(
        (f"pathlib{module}.{name}" for module in ("", "._local") for name in ("Path", "PosixPath", "PurePosixPath")),
        InertText,
    ),
    **dict.fromkeys(
        (f"pathlib{module}.{name}" for module in ("", "._local") for name in ("WindowsPath", "PureWindowsPath")),
        InertText,
    ),
    "numpy.dtype": ArrayType,
    "numpy.ndarray": ArrayData,
    **{
        f"numpy.{core}.multiarray.{name}": function
        for core in ("core", "_core")
        for name, function in (("scalar", _scalar), ("_reconstruct", _reconstruct))
    },
}
# Names on torch's own list that do not begin with "torch."; without bytearray, which a number makes as large as it says.
_TORCH_LIST = frozenset(
    (
        "_codecs.encode",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
    )
)
# What may be called, besides the stand-ins: builders of tensors that honest files use. The other names stand for themselves,
# as types of storages, dtypes and arguments: torch would also let a file call torch.FloatTensor(1000), which gives a tensor
# of whatever lay in the memory.
_CALLED = frozenset(
    (
        *_TORCH_LIST,
        "an empty tensor",
        "torch.Size",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch._tensor._rebuild_from_type_v2",
        *(
            f"torch._utils._rebuild_{kind}"
            for kind in (
                "tensor",
                "tensor_v2",
                "tensor_v3",
                "parameter",
                "parameter_with_state",
                "qtensor",
                "sparse_tensor",
                "meta_tensor_no_storage",
            )
        ),
    )
)
_CHANGED = frozenset(("collections.OrderedDict", "a tensor", "flags of a tensor"))
_lock = threading.Lock()


def walk_pickles(stream: IO[bytes], count: int) -> list[PickleWalk]:
    """What pickles name, call and repeat.

    Args:
        stream: a binary file with pickles, one after the other, at the first one.
        count: number of pickles to look at.

    Raises:
        ValueError, EOFError, LookupError: a pickle is cut off or damaged.
        TooMuch: a pickle would make far more than it holds.
    """
    walks = []
    for _ in range(count):
        walks.append(walk := PickleWalk())
        for opcode, argument, position in pickletools.genops(stream):
            walk.step(opcode, argument, position or 0)
    return walks


def _is_known(name: str) -> bool:
    """Whether the name has a stand-in, or torch's own list decides about it (tensors, storages, their builders)."""
    if name in _STAND_INS or name in _TORCH_LIST:
        return True
    return name.startswith("torch.") and not name.startswith("torch.nn.modules.")


def refuse_unknown(walks: list[PickleWalk], source: Path) -> None:
    """Checks that a file's pickles name only weights and classes with a stand-in, and call and change fewer still.

    Args:
        walks: from `walk_pickles`.
        source: the file that the user named, for messages.

    Raises:
        CheckpointError: there are others; the message lists their full names.
    """
    unknown = list(dict.fromkeys(name for walk in walks for name in walk.names if not _is_known(name)))
    for walk in walks:
        known = _STAND_INS.keys() | {*unknown}
        unknown += [f"a call of {name}" for name in walk.called if name not in known | _CALLED]
        unknown += [f"a state for {name}" for name in walk.changed if name not in known | _CHANGED]
    if unknown:
        refuse_names(unknown, source)


def refuse_names(unknown: list[str], source: Path) -> NoReturn:
    """Raises the CheckpointError that lists the unknown names in a pickle."""
    fix = "do not trust the file unless you know its origin"
    if any(name.startswith(("torch.nn.modules.", "mmseg.models.", "mmcv.cnn.")) for name in unknown):
        fix = "a whole model was pickled: save its state_dict() instead"
    raise CheckpointError(
        source, f"refused: its pickle asks for {listed(unknown)}, which weights do not need; nothing was run", fix
    )


def load_zip(path: Path, archive: zipfile.ZipFile, folder: str, source: Path, *, mapped: bool = True) -> Any:
    """Loads the object in a file that torch.save wrote since torch 1.6.

    Args:
        path: the file.
        archive: the same file, opened.
        folder: the folder inside it, from `archives.torch_folder`.
        source: the file that the user named, for messages.
        mapped: leave tensors on disk until they are read.

    Raises:
        CheckpointError: the pickle names an object that is not on the list, or is damaged.
    """
    member = archive.getinfo(f"{folder}/data.pkl")
    if member.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            source, f"the list of its tensors has {member.file_size} bytes; no model needs that many"
        )
    _walk(io.BytesIO(archives.stored_bytes(path, member)), 1, source)
    return _load(path, source, mmap=mapped)


def load_legacy(path: Path, source: Path) -> Any:
    """Loads the object in a file that torch.save wrote before torch 1.6, all of it into memory.

    Args:
        path: the file.
        source: the file that the user named, for messages.

    Raises:
        CheckpointError: the pickle names an object that is not on the list, or the file is cut off.
    """
    with path.open("rb") as stream:
        *_, content, keys = _walk(stream, _LEGACY_PICKLES, source)
    held = {key.what for key in keys.result if type(key.what) is str} if isinstance(keys.result, list) else set()
    if not content.storages <= held:  # torch would leave what lies in the memory in their places
        raise CheckpointError(
            source, "the file is damaged: it lists tensors that it does not hold", "download it again"
        )
    return _load(path, source, mmap=False)


def _walk(stream: IO[bytes], count: int, source: Path) -> list[PickleWalk]:
    """What a file's pickles do; raises a CheckpointError if it is more than weights need, or if they are damaged."""
    try:
        walks = walk_pickles(stream, count)
    except TooMuch as error:
        raise CheckpointError(source, f"refused: {error}", "do not trust the file") from None
    except (ValueError, EOFError, MemoryError, OverflowError, LookupError) as error:
        raise CheckpointError(
            source, f"the file is cut off or damaged: its pickle ends or breaks early ({error})", "download it again"
        ) from None
    refuse_unknown(walks, source)
    return walks


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Replaces what other libraries have allowed torch to load by our list, for the time of one load."""
    with _lock:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([(value, name) for name, value in _STAND_INS.items()])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _load(path: Path, source: Path, *, mmap: bool) -> Any:
    try:
        with _only_stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to its developers
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # hostile bytes end in errors of many kinds; each is the file's fault
        message = str(error)
        if "unexpected EOF" in message or isinstance(error, EOFError):
            raise CheckpointError(
                source,
                f"the file is cut off: {path.stat().st_size} bytes are there, and more tensors are announced",
                "download it again and compare the size with the one at its source",
            ) from error
        name = re.search(r"GLOBAL (\S+)", message)
        if name:
            refuse_names([name[1]], source)
        operand = re.search(r"Unsupported operand \d+", message)
        reason = operand[0] if operand else (message.splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            source,
            f"torch.load(weights_only=True) cannot read it ({type(error).__name__}: {reason})",
            "download it again, or save its weights anew with torch.save and the default pickle protocol",
        ) from error


def plain(value: Any) -> Any:
    """``value`` as plain Python data: dicts, lists, tuples, numbers, strings, tensors.

    Arrays become lists; what is inert, contains itself or is nested more than 100 levels deep becomes None.
    """
    return _plain(value, {}, 0)


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | torch.Tensor):
        return value
    if id(value) in done or depth > 100:
        return done.get(id(value))
    done[id(value)] = None
    result: Any = None
    if isinstance(value, dict):
        result = {key: _plain(item, done, depth + 1) for key, item in dict.items(value) if _is_key(key)}
    elif isinstance(value, list | tuple):
        result = [_plain(item, done, depth + 1) for item in value]
        result = result if isinstance(value, list) else tuple(result)
    elif isinstance(value, InertFields):
        result = _plain(value.fields, done, depth + 1)
    elif isinstance(value, ArrayData):
        array = value.array()
        result = None if array is None else array.tolist()
    done[id(value)] = result
    return result


def _is_key(key: Any) -> bool:
    return key is None or isinstance(key, str | bytes | bool | int | float | tuple)
