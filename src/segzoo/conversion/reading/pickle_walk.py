"""What a pickle names, calls and repeats, before anything of it is made.

`PickleWalk` follows the values on a pickle's stack without making them. It knows of each what it is, as far as anybody
asks (a text, a name, a tuple, the result of a call), and how large it is: a pickle of a few bytes can name one value
many times, in tuples of tuples and as the arguments of calls, so that whoever hashes such a tuple, prints it or copies the
arguments needs 2**60 steps, or all memory; and keys of one hash are compared in pairs. What is hashed, called and set is
counted against the length of the pickle.
"""

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Iterable
from typing import Any

from segzoo.conversion.reading.limits import TooMuch

_FREE = 4_000_000
_FACTOR = 16  # of what a file holds; honest files repeat names and shapes a few times
_LARGEST = 1 << 62

_GROW = frozenset(("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"))
_CALL = frozenset(("REDUCE", "NEWOBJ"))  # torch's reader has no others
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_TUPLES = frozenset(("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"))
_LISTS = frozenset(("EMPTY_LIST", "LIST"))
_MADE = {"EMPTY_DICT": "builtins.dict", "EMPTY_SET": "builtins.set"}

_ENCODE = "_codecs.encode"  # how protocol 2 writes bytes: as a text of their values, and "latin1"
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"  # calls its first argument
_OF_STORAGE = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_qtensor")  # beginnings of what views a storage
_PARAMETER = "torch.nn.parameter.Parameter"
_TENSOR = re.compile(r"torch\.([a-z]+\.)*\w*Tensor")


class Name(str):
    """The full name of what a pickle imports, in Python 3."""


class Made(str):
    """The name of what made a value that can change: a dict, a set, what a call returned."""


_STORAGE = Made("a storage")


class Value:
    """A value of a pickle: ``what`` it is, as far as anybody asks, its size and its hash.

    ``what`` is a literal, a `Name`, a `Made`, a tuple or list of values, or None.
    """

    __slots__ = ("hash", "keys", "size", "what")

    def __init__(self, what: Any = None, size: int = 1):
        self.what, self.size = what, min(size, _LARGEST)
        self.keys: Counter[int] | None = None  # of a dict or set: how many keys have a hash
        if isinstance(what, tuple):
            self.hash = hash(tuple(part.hash for part in what))
        else:
            self.hash = hash(what) if type(what) in (str, bytes, int, float) else id(self)

    def grow(self, values: Iterable["Value"]) -> None:
        """Takes values in, if it is one that can."""
        if isinstance(self.what, list | Made):
            self.size = min(self.size + sum(value.size for value in values), _LARGEST)


class PickleWalk:
    """Follows one pickle, opcode by opcode.

    Attributes:
        names: everything that it imports, by full name.
        called: the names of everything that it calls; ``"a value"`` for what is no name, ``"an empty tensor"`` for one, and
            for a call in a form that no honest pickle has, its name with a remark.
        changed: the names of what made the values whose state it sets; ``"a value"`` for what nothing made, ``"a tensor"``
            for one that becomes a part of a storage, ``"flags of a tensor"`` for a parameter's.
        storages: keys of the storages of tensors; None among them for one that is not a text.
    """

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.called: dict[str, None] = {}
        self.changed: dict[str, None] = {}
        self.storages: set[str | None] = set()
        self._spent = 0
        self._position = 0
        self._stack: list[Value] = []
        self._marks: list[int] = []
        self._memo: dict[int, Value] = {}

    @property
    def result(self) -> Any:
        """``what`` the pickle's value is, at its end."""
        return self._stack[-1].what if self._stack else None

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any, position: int) -> None:
        """Takes one opcode in.

        Args:
            opcode, argument, position: what ``pickletools.genops`` gives.

        Raises:
            TooMuch: so far the pickle asks for more than `_FACTOR` times what it holds.
            IndexError, KeyError: the pickle is damaged: it takes what it has not made.
        """
        name, stack = opcode.name, self._stack
        self._position = position
        if name == "MARK":
            self._marks.append(len(stack))
        elif name == "STOP":
            pass
        elif name in _PUT:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GET:
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(Value(self._name(_today(*argument.split(" ", 1)))))
        elif name in ("EXT1", "EXT2", "EXT4"):
            stack.append(Value(self._name(f"extension {argument}")))
        elif not opcode.stack_before:
            if opcode.stack_after:
                stack.append(_literal(name, argument))
        else:
            self._change(name, opcode, argument)

    def _name(self, name: str) -> Name:
        self.names[name] = None
        return Name(name)

    def _change(self, name: str, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """An opcode that takes values from the stack."""
        head, items = self._taken(opcode.stack_before)
        if name in _GROW:
            items = [*head[1:], *items]
            if not name.startswith("APPEND"):
                self._hash(head[0], items[::2] if name.startswith("SETITEM") else items)
            elif isinstance(head[0].what, list):
                head[0].what += items
            head[0].grow(items)
            self._stack.append(head[0])
        elif name in _CALL:
            self._stack.append(self._call(*head))
        elif name == "BUILD":
            target, state = head
            self.changed[_changed(target, state)] = None
            self._charge([state])
            target.grow([state])
            self._stack.append(target)
        elif name == "BINPERSID":
            self._charge(head)
            self._note_storage(head[0].what)
            self._stack.append(Value(_STORAGE, 1 + head[0].size))
        elif name == "STACK_GLOBAL":
            parts = [value.what for value in head]
            texts = all(type(part) is str for part in parts)
            self._stack.append(Value(self._name(".".join(parts) if texts else "a name that is computed")))
        elif name == "DUP":
            self._stack += [head[0], head[0]]
        elif opcode.stack_after:
            if name == "INST":
                self._name(_today(*argument.split(" ", 1)))
            values = [*head, *items]
            what = tuple(values) if name in _TUPLES else values if name in _LISTS else Made(_MADE.get(name, name))
            self._stack.append(Value(what, 1 + sum(value.size for value in values)))

    def _taken(self, before: list[pickletools.StackObject]) -> tuple[list[Value], list[Value]]:
        """The values that an opcode takes: those below the mark, and those above it; no mark: all are below."""
        stack, items, count = self._stack, [], len(before)
        if pickletools.markobject in before:
            start, count = self._marks.pop(), before.index(pickletools.markobject)
            items = stack[start:]
            del stack[start:]
        start = len(stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise IndexError("it takes what is not there")
        head = stack[start:]
        del stack[start:]
        return head, items

    def _call(self, function: Value, arguments: Value) -> Value:
        """The result of a call."""
        self._charge([arguments])
        name = function.what if isinstance(function.what, Name) else "a value"
        whats = [part.what for part in arguments.what] if isinstance(arguments.what, tuple) else []
        remark = ""
        if not isinstance(arguments.what, tuple):
            remark = " with arguments that are no tuple"
        elif name == _ENCODE and ([*map(type, whats)] != [str, str] or whats[1] != "latin1"):
            remark = " with another codec than latin1"
        elif name.startswith(_OF_STORAGE) and not (whats and whats[0] is _STORAGE):
            remark = " without a storage of the file"
        empty = not whats and not remark and _TENSOR.fullmatch(name)  # it gets its numbers as a state, see `_changed`
        self.called["an empty tensor" if empty else name + remark] = None
        if name == _FROM_TYPE and len(whats) > 2:
            self._call(arguments.what[0], arguments.what[2])
        made = Value(Made(name), 1 + arguments.size)
        for what in whats:
            if isinstance(what, list):  # which a set or a mapping is made of
                pairs = [item.what for item in what if isinstance(item.what, list | tuple)]
                self._hash(made, what)
                self._hash(Value(), [pair[0] for pair in pairs if pair and name != "builtins.set"])
        return made

    def _hash(self, target: Value, keys: list[Value]) -> None:
        """Counts what it costs to put keys into a dict or set, where those with one hash are compared in pairs."""
        counts = Counter() if target.keys is None else target.keys
        if isinstance(target.what, Made):
            target.keys = counts
        for key in keys:
            self._spent += counts[key.hash]
            counts[key.hash] += 1
        self._charge(keys)

    def _note_storage(self, named: Any) -> None:
        """A storage by what names it: ("storage", type, key, location, size)."""
        parts = [part.what for part in named] if isinstance(named, tuple) else []
        self.storages.add(parts[2] if len(parts) > 2 and type(parts[2]) is str else None)

    def _charge(self, values: list[Value]) -> None:
        self._spent += 1 + sum(value.size for value in values)
        if self._spent > _FREE + _FACTOR * self._position:
            raise TooMuch("its pickle repeats its parts until they are far more than the file holds")


def _changed(target: Value, state: Value) -> str:
    """What the state of a value is set of: the name of what made the value, or, as torch before 0.4 did, a tensor."""
    name = target.what if isinstance(target.what, Made) else "a value"
    parts = state.what if isinstance(state.what, tuple) else ()
    if _TENSOR.fullmatch(name) and len(parts) == 4 and parts[0].what is _STORAGE:
        return "a tensor"  # storage, offset, shape, steps
    return "flags of a tensor" if name == _PARAMETER and len(parts) == 3 else name


def _today(module: str, name: str = "") -> str:
    """The full name in Python 3 of a name in a pickle, which Python 2 may have written."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _literal(name: str, argument: Any) -> Value:
    """The value that an opcode makes out of its argument."""
    if isinstance(argument, str | bytes | bytearray):
        return Value(bytes(argument) if isinstance(argument, bytearray) else argument, 1 + len(argument))
    if isinstance(argument, int):
        return _SMALL.get(argument) or Value(argument, 1 + argument.bit_length() // 8)
    if name in _TUPLES:
        return Value(())
    if name in _LISTS:
        return Value([])
    return Value(Made(_MADE[name])) if name in _MADE else _NOTHING if argument is None else Value(argument)


# Shared, for files that hold millions of them.
_SMALL, _NOTHING = {number: Value(number) for number in range(256)}, Value()
