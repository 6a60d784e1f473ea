"""How much a pickle makes, before anything of it is made.

A pickle of a few bytes can name one value many times, in tuples of tuples and as the arguments of calls. Whoever hashes
such a tuple, prints it or copies the arguments needs 2**60 steps, or all memory. So the sizes of values are followed
along the pickle's stack, and what is hashed, called and set is counted against the length of the pickle.
"""

import pickletools
from typing import Any

from segzoo.conversion.reading.limits import TooMuch

_FREE = 4_000_000
_FACTOR = 16  # of what a file holds; honest files repeat names and shapes a few times
_LARGEST = 1 << 62

_GROW = frozenset(("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"))
_CALL = frozenset(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD", "BINPERSID"))
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MUTABLE = frozenset(("LIST", "EMPTY_LIST", "DICT", "EMPTY_DICT", "EMPTY_SET"))

# The size of a value: of one that can grow, in a list, which is shared by all places of the stack that name it.
_Size = int | list[int]


def _number(size: _Size) -> int:
    return size if isinstance(size, int) else size[0]


def _sum(sizes: list[_Size]) -> int:
    return min(1 + sum(map(_number, sizes)), _LARGEST)


class PickleSizes:
    """Follows one pickle, opcode by opcode."""

    def __init__(self) -> None:
        self._spent = 0
        self._stack: list[_Size] = []
        self._marks: list[int] = []
        self._memo: dict[int, _Size] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any, position: int) -> None:
        """Takes one opcode in.

        Args:
            opcode, argument, position: what ``pickletools.genops`` gives.

        Raises:
            TooMuch: so far the pickle asks for more than `_FACTOR` times what it holds.
            IndexError, KeyError: the pickle is damaged: it takes what it has not made.
        """
        name, stack = opcode.name, self._stack
        if name == "MARK":
            self._marks.append(len(stack))
        elif name in _PUT:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GET:
            stack.append(self._memo[argument])
        elif not opcode.stack_before:
            if opcode.stack_after:
                stack.append(_of_literal(argument, name))
        else:
            self._change(name, opcode, position)

    def _change(self, name: str, opcode: pickletools.OpcodeInfo, position: int) -> None:
        """An opcode that takes values from the stack."""
        head, items = self._taken(opcode.stack_before)
        if name in _GROW:
            items = [*head[1:], *items]
            self._charge(items[::2] if name.startswith("SETITEM") else items if name == "ADDITEMS" else [], position)
            self._stack.append(_grown(head[0], items))
        elif name in _CALL:
            arguments = head if name == "BINPERSID" else [*head[1:], *items]
            self._charge(arguments, position)
            self._stack.append(_grown(head[0], arguments) if name == "BUILD" else [_sum(arguments)])
        elif name == "DUP":
            self._stack += [head[0], head[0]]
        elif opcode.stack_after:
            size = _sum([*head, *items])
            self._stack.append([size] if name in _MUTABLE else size)

    def _taken(self, before: list[pickletools.StackObject]) -> tuple[list[_Size], list[_Size]]:
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

    def _charge(self, sizes: list[_Size], position: int) -> None:
        self._spent += _sum(sizes)
        if self._spent > _FREE + _FACTOR * position:
            raise TooMuch("its pickle repeats its parts until they are far more than the file holds")


def _of_literal(argument: Any, name: str) -> _Size:
    """The size of a value that an opcode makes out of its argument."""
    if isinstance(argument, str | bytes | bytearray) and name != "GLOBAL":
        return 1 + len(argument)
    if isinstance(argument, int):
        return 1 + argument.bit_length() // 8
    return [1] if name in _MUTABLE else 1


def _grown(size: _Size, items: list[_Size]) -> _Size:
    """The size of a value that takes more in."""
    if isinstance(size, list):
        size[0] = min(size[0] + sum(map(_number, items)), _LARGEST)
    return size
