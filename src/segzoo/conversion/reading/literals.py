"""Python text of a config, read as literals: assignments and expressions over literals, nothing else, never executed.

This module walks the syntax tree of the text. It knows constants, containers, ``dict()``, names assigned earlier,
arithmetic, comparisons, subscripts, f-strings and some pure functions of literals (``list``, ``tuple``, ``sum``,
``len``, ``min``, ``max``, ``range``). Whatever else a text holds is refused with its line. The work is bounded (`config_limits`).
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from segzoo.conversion.errors import ConfigReadError
from segzoo.conversion.reading.limits import (
    MAX_INTEGER_BITS,
    MAX_NESTING,
    MAX_PADDING,
    MAX_VALUES,
    Budget,
    flat,
    padding,
)

_FIX_RESOLVED = "write the resolved config as literals (mmsegmentation's print_config prints it)"

_REFUSED_STATEMENTS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Import: ("'import' is not read: a config is data here and is never executed", _FIX_RESOLVED),
    ast.ImportFrom: ("'import' is not read: a config is data here and is never executed", _FIX_RESOLVED),
    ast.With: ("'with' (the import style of inheritance) is not read", _FIX_RESOLVED),
    ast.For: ("a 'for' loop is not read", "write the values out"),
    ast.While: ("a 'while' loop is not read", "write the values out"),
    ast.If: ("an 'if' statement is not read", "keep the branch that applies, or use 'a if condition else b'"),
    ast.FunctionDef: ("a function definition is not read", "write its result out"),
    ast.AsyncFunctionDef: ("a function definition is not read", "write its result out"),
    ast.ClassDef: ("a class definition is not read", "name the class by its 'type' string"),
    ast.Try: ("'try' is not read", _FIX_RESOLVED),
    ast.Assert: ("'assert' is not read", "remove the line"),
}
_REFUSED_EXPRESSIONS: dict[type[ast.AST], tuple[str, str]] = {
    ast.ListComp: ("a comprehension is not read", "write the list out"),
    ast.SetComp: ("a comprehension is not read", "write the set out"),
    ast.DictComp: ("a comprehension is not read", "write the dict out"),
    ast.GeneratorExp: ("a comprehension is not read", "write the values out"),
    ast.Lambda: ("a lambda is not read", "write its result out"),
    ast.NamedExpr: ("':=' is not read", "assign the name on its own line"),
}

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "list": list,
    "tuple": tuple,
    "sum": sum,
    "len": len,
    "min": min,
    "max": max,
}
_SEQUENCES = (str, bytes, list, tuple)


class LiteralReader:
    """Reads the statements of one file, top to bottom.

    Args:
        filename: name for messages.
        budget: shared by a config and its base files.
        variables: the predefined variables (``fileDirname`` ...) that ``{{ name }}`` stands for.
        load_bases: reads the files that ``_base_`` names and gives their merged values. None: a ``_base_`` is refused.

    Attributes:
        names: what the file assigned, in order.
        base: the values of the base files, which ``_base_`` stands for; None before the assignment to it.
    """

    def __init__(
        self,
        filename: str,
        budget: Budget,
        variables: dict[str, str] | None = None,
        load_bases: Callable[[list[str], int], dict[str, Any]] | None = None,
    ):
        self.filename = filename
        self.budget = budget
        self.variables = variables or {}
        self.load_bases = load_bases
        self.names: dict[str, Any] = {}
        self.base: dict[str, Any] | None = None
        self._depth = 0
        names = "|".join(map(re.escape, self.variables)) or r"(?!)"
        self._placeholder = re.compile(rf"\{{\{{\s*({names})\s*\}}\}}")
        self._f_placeholder = re.compile(rf"\{{\s*({names})\s*\}}")

    def run(self, module: ast.Module) -> None:
        """Reads every statement of ``module`` into ``names``."""
        first = next((statement for statement in module.body if _assigns_base(statement)), None)
        if first is not None and not any(isinstance(node, ast.Name) for node in ast.walk(first.value)):
            # The base files come first wherever the line stands, as in mmengine.
            self.statement(first)
        else:
            first = None
        for statement in module.body:
            if statement is not first:
                self.statement(statement)

    def error(self, node: ast.AST, cause: str, fix: str | None = None) -> ConfigReadError:
        """A ConfigReadError at the line of ``node``."""
        return ConfigReadError(self.filename, getattr(node, "lineno", None), cause, fix)

    # Statements

    def statement(self, node: ast.stmt) -> None:
        """Reads one statement."""
        refused = _REFUSED_STATEMENTS.get(type(node))
        if refused:
            raise self.error(node, *refused)
        match node:
            case ast.Assign(targets=targets, value=value):
                result = self.evaluate(value)
                for target in targets:
                    self.assign(target, result)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.assign(target, self.evaluate(value))
            case ast.AugAssign(target=target, op=op, value=value):
                old = self.evaluate(target)
                self.assign(target, self.binary(node, op, old, self.evaluate(value), in_place=True))
            case ast.Delete(targets=targets):
                for target in targets:
                    self.delete(target)
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                pass  # docstrings and the like
            case ast.Expr(value=ast.Dict() | ast.Call(func=ast.Name(id="dict")) as value):
                # mmcv prints a config whose keys are not all identifiers as one dict
                values = self.evaluate(value)
                if not all(isinstance(key, str) for key in values):
                    raise self.error(node, "the keys of a config must be strings")
                self.names.update(values)
            case ast.Expr(value=value):
                self.evaluate(value)
                raise self.error(node, "an expression whose value is not used is not read", "remove the line")
            case _:
                raise self.error(node, f"{_describe(node)} is not read", _FIX_RESOLVED)

    def assign(self, target: ast.expr, value: Any) -> None:
        """Binds ``value`` to a name, to several, to an item or to an attribute of ``_base_``."""
        match target:
            case ast.Name(id="_base_"):
                self.assign_base(target, value)
            case ast.Name(id=name):
                self.names[name] = value
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                self.unpack(target, elements, value)
            case ast.Subscript(value=holder, slice=index):
                self.guarded(target, self._set_item, self.holder(holder), self.evaluate(index), value)
            case ast.Attribute(value=holder, attr=name):
                self.keys_of(target, holder)[name] = value
            case _:
                raise self.error(target, f"an assignment to {_describe(target)} is not read")

    @staticmethod
    def _set_item(holder: Any, index: Any, value: Any) -> None:
        if not isinstance(holder, dict | list):
            raise TypeError(f"an item of a {type(holder).__name__} cannot be set")
        if isinstance(index, slice):
            raise TypeError("a slice cannot be set")
        holder[index] = value

    def unpack(self, target: ast.expr, elements: list[ast.expr], value: Any) -> None:
        """Binds the items of ``value`` to several targets, one of which may be starred."""
        if not isinstance(value, list | tuple | str):
            raise self.error(target, f"a {type(value).__name__} cannot be unpacked into names")
        values = list(value)
        stars = [i for i, element in enumerate(elements) if isinstance(element, ast.Starred)]
        if len(values) != len(elements) if not stars else len(values) < len(elements) - 1:
            raise self.error(target, f"{len(values)} values are unpacked into {len(elements)} names")
        if stars:
            start, after = stars[0], len(elements) - stars[0] - 1
            stop = len(values) - after
            values = [*values[:start], values[start:stop], *values[stop:]]
        for element, item in zip(elements, values, strict=True):
            self.assign(element.value if isinstance(element, ast.Starred) else element, item)

    def assign_base(self, node: ast.expr, value: Any) -> None:
        """Reads the base files."""
        references = [value] if isinstance(value, str) else value
        if not isinstance(references, list | tuple) or not all(isinstance(item, str) for item in references):
            raise self.error(node, "'_base_' must be a file name or a list of file names")
        if self.base is not None:
            raise self.error(node, "'_base_' is assigned twice", "put all base files into one list")
        if self.load_bases is None:
            raise self.error(
                node,
                f"the text builds on base files ({', '.join(references)}), and it has no folder to find them in",
                "give the config as a file, beside its base files",
            )
        self.base = self.load_bases(list(references), node.lineno)

    def delete(self, target: ast.expr) -> None:
        """Removes a name or an item."""
        match target:
            case ast.Name(id=name) if name in self.names:
                del self.names[name]
            case ast.Subscript(value=holder, slice=index):
                self.guarded(target, operator.delitem, self.evaluate(holder), self.evaluate(index))
            case _:
                raise self.error(target, f"'del' of {_describe(target)} is not read")

    # Expressions

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression."""
        refused = _REFUSED_EXPRESSIONS.get(type(node))
        if refused:
            raise self.error(node, *refused)
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self.error(node, f"{_describe(node)} is not read", _FIX_RESOLVED)
        self._depth += 1
        try:
            if self._depth > MAX_NESTING:
                raise self.error(node, f"the text is nested more than {MAX_NESTING} levels deep")
            return method(node)
        finally:
            self._depth -= 1

    def guarded(self, node: ast.AST, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, with the errors that wrong values bring as errors of the line."""
        try:
            return function(*arguments)
        except KeyError as error:
            raise self.error(node, f"there is no key {error}") from None
        except (TypeError, ValueError, IndexError, ArithmeticError, AttributeError, RecursionError) as error:
            raise self.error(node, str(error)) from None
        except MemoryError:
            raise self.error(node, "the value is too large") from None

    def made(self, node: ast.AST, value: Any) -> Any:
        """``value``, after its cost is charged."""
        self.guarded(node, self.budget.charge_deep, value)
        return value

    def _constant(self, node: ast.Constant) -> Any:
        value = node.value
        if isinstance(value, int):
            self.check_integer(node, value)
        if isinstance(value, str) and "{{" in value:
            value = self._placeholder.sub(lambda match: self.variables[match[1]], value)
            if re.search(r"\{\{\s*\$", value):
                raise self.error(node, "environment variables are not read", "write the value in their place")
        return self.made(node, value)

    def _name(self, node: ast.Name) -> Any:
        if node.id == "_base_":
            raise self.error(node, "'_base_' alone is no value", "name one of its keys: '_base_.key'")
        if node.id not in self.names:
            if node.id in ("inf", "nan"):  # how mmcv prints these two floats
                return float(node.id)
            in_base = self.base is not None and node.id in self.base
            fix = f"a value of a base file is '_base_.{node.id}'" if in_base else "assign it first, or write its value"
            raise self.error(node, f"the name {node.id!r} has no value here", fix)
        return self.made(node, self.names[node.id])

    def _attribute(self, node: ast.Attribute) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id not in (*self.names, "_base_"):
            raise self.error(
                node, f"'{ast.unparse(node)[:80]}' is an object of a module, not a literal", _FIX_RESOLVED
            )
        values = self.keys_of(node, node.value)
        if node.attr not in values:
            raise self.error(node, f"'{ast.unparse(node)[:80]}': there is no key {node.attr!r}")
        return self.made(node, values[node.attr])

    def holder(self, node: ast.expr) -> Any:
        """The value before ``.key`` or ``[key]``: as any expression, and ``_base_`` too."""
        if not (isinstance(node, ast.Name) and node.id == "_base_"):
            return self.evaluate(node)
        if self.base is None:
            raise self.error(node, "'_base_' is used, and no base file is named before")
        return self.base

    def keys_of(self, node: ast.Attribute, holder: ast.expr) -> dict[str, Any]:
        """The dict whose keys can be read and set as attributes."""
        values = self.holder(holder)
        if not isinstance(values, dict):
            raise self.error(node, f"'.{node.attr}': a {type(values).__name__} has no keys")
        return values

    def _subscript(self, node: ast.Subscript) -> Any:
        value = self.guarded(node, operator.getitem, self.holder(node.value), self.evaluate(node.slice))
        return self.made(node, value)

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(None if part is None else self.evaluate(part) for part in (node.lower, node.upper, node.step)))

    def items(self, elements: list[ast.expr]) -> list[Any]:
        """The values of the elements of a list, with ``*x`` spread out."""
        values: list[Any] = []
        for element in elements:
            if isinstance(element, ast.Starred):
                spread = self.evaluate(element.value)
                if not isinstance(spread, list | tuple | set | str):
                    raise self.error(element, f"a {type(spread).__name__} cannot be spread with '*'")
                values.extend(spread)
            else:
                values.append(self.evaluate(element))
        if elements:
            self.guarded(elements[0], self.budget.charge, len(values))
        return values

    def _list(self, node: ast.List) -> list[Any]:
        return self.items(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.items(node.elts))

    def _set(self, node: ast.Set) -> Any:
        match node.elts:  # {{ _base_.x }} and {{ fileDirname }} outside of a string
            case [ast.Set(elts=[ast.Name(id=name)])] if name in self.variables:
                return self.variables[name]
            case [ast.Set(elts=[ast.Name() | ast.Attribute() as inner])]:
                if ast.unparse(inner).startswith("_base_."):
                    return self.evaluate(inner)
                raise self.error(node, f"'{{{{ {ast.unparse(inner)[:80]} }}}}' is no known variable")
        return self.guarded(node, set, self.items(node.elts))

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                self.spread(item, values)
            else:
                self.guarded(key, operator.setitem, values, self.evaluate(key), self.evaluate(item))
        self.guarded(node, self.budget.charge, 1 + len(values))
        return values

    def spread(self, node: ast.expr, into: dict[Any, Any]) -> None:
        """Adds the items of ``**node``."""
        value = self.evaluate(node)
        if not isinstance(value, dict):
            raise self.error(node, f"a {type(value).__name__} cannot be spread with '**'")
        into.update(value)

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name == "dict":
            values: dict[Any, Any] = {}
            if len(node.args) > 1:
                raise self.error(node, "dict() takes one value and names")
            for argument in node.args:
                values.update(self.guarded(node, dict, self.evaluate(argument)))
            for keyword in node.keywords:
                if keyword.arg is None:
                    self.spread(keyword.value, values)
                else:
                    values[keyword.arg] = self.evaluate(keyword.value)
            self.guarded(node, self.budget.charge, 1 + len(values))
            return values
        if (name in _FUNCTIONS or name == "range") and not node.keywords:
            arguments = self.items(node.args)
            if name == "range":  # every distributed 0.x training writes gpu_ids = range(0, N)
                return self.guarded(node, self.number_range, arguments)
            if name == "sum" and not all(isinstance(item, int | float) for item in flat(arguments)):
                raise self.error(node, "'sum' of anything but numbers is not read", "write its result out")
            return self.checked(node, self.guarded(node, _FUNCTIONS[name], *arguments))
        called = ast.unparse(node.func)[:80]
        raise self.error(
            node, f"the call of '{called}' is not read: a config is data here, never executed", "write its result out"
        )

    def number_range(self, arguments: list[Any]) -> list[int]:
        """The numbers of ``range(*arguments)``, charged before they are made."""
        if not all(type(argument) is int for argument in arguments):
            raise TypeError("'range' takes whole numbers")
        numbers = range(*arguments)
        self.budget.charge(1 + abs(numbers.stop - numbers.start) // abs(numbers.step))
        return list(numbers)

    def _binop(self, node: ast.BinOp) -> Any:
        return self.binary(node, node.op, self.evaluate(node.left), self.evaluate(node.right))

    def binary(self, node: ast.AST, op: ast.operator, left: Any, right: Any, in_place: bool = False) -> Any:
        """``left op right`` within the limits; lists and dicts are changed in place by ``+=`` and ``|=``."""
        function = _BINARY.get(type(op))
        if function is None:
            raise self.error(node, f"the operator {type(op).__name__} is not read")
        self.check_operands(node, op, left, right)
        if in_place and isinstance(left, list) and isinstance(op, ast.Add) and isinstance(right, list | tuple):
            left.extend(right)
            return self.made(node, left)
        if in_place and isinstance(left, dict) and isinstance(op, ast.BitOr) and isinstance(right, dict):
            left.update(right)
            return self.made(node, left)
        return self.checked(node, self.guarded(node, function, left, right))

    def check_operands(self, node: ast.AST, op: ast.operator, left: Any, right: Any) -> None:
        """Refuses an operation whose result would be too large, before it is made."""
        if isinstance(op, ast.Mult):
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, _SEQUENCES) and isinstance(times, int) and times > 1:
                    unit = Budget(self.budget.left)
                    self.guarded(node, unit.charge_deep, sequence)
                    if (self.budget.left - unit.left) * times > self.budget.left:
                        raise self.error(node, f"the product makes more than {MAX_VALUES} values")
        elif isinstance(op, ast.Pow | ast.LShift) and isinstance(left, int) and isinstance(right, int) and right > 0:
            power = isinstance(op, ast.Pow)
            bits = left.bit_length() * right if power else left.bit_length() + right
            if bits > MAX_INTEGER_BITS and not (power and left in (-1, 0, 1)):
                raise self.error(node, f"the number would have more than {MAX_INTEGER_BITS} bits")
        elif isinstance(op, ast.Mod) and isinstance(left, str | bytes) and padding(left, right) > MAX_PADDING:
            raise self.error(node, "this format pads to a width that no config needs", "write the text out")

    def check_integer(self, node: ast.AST, value: int) -> None:
        """Refuses a number that no config needs."""
        if value.bit_length() > MAX_INTEGER_BITS:
            raise self.error(node, f"the number has more than {MAX_INTEGER_BITS} bits")

    def checked(self, node: ast.AST, value: Any) -> Any:
        """A value that was computed: charged, and refused where it is no literal."""
        if isinstance(value, int):
            self.check_integer(node, value)
        return self.made(node, value)

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        return self.guarded(node, _UNARY[type(node.op)], self.evaluate(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        for value in node.values:
            result = self.evaluate(value)
            if bool(result) != isinstance(node.op, ast.And):
                break
        return result

    def _compare(self, node: ast.Compare) -> bool:
        left = self.evaluate(node.left)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(comparator)
            if not self.guarded(node, _COMPARE[type(op)], left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.evaluate(node.body if self.evaluate(node.test) else node.orelse)

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        parts = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                # '{{ fileDirname }}' in an f-string reads as the escaped text '{ fileDirname }'
                parts.append(self._f_placeholder.sub(lambda match: self.variables[match[1]], part.value))
            else:
                parts.append(self.evaluate(part))
        return self.made(node, "".join(parts))

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        value = self.evaluate(node.value)
        convert = {ord("s"): str, ord("r"): repr, ord("a"): ascii}.get(node.conversion, lambda same: same)
        specification = self._joinedstr(node.format_spec) if node.format_spec else ""
        if padding("%" + specification, ()) > MAX_PADDING:
            raise self.error(node, "this format pads to a width that no config needs", "write the text out")
        return self.made(node, self.guarded(node, format, self.guarded(node, convert, value), specification))


def _assigns_base(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets)


def _describe(node: ast.AST) -> str:
    """What a user would call this piece of text."""
    text = ast.unparse(node).splitlines()[0]
    return f"'{text[:60]}{'...' if len(text) > 60 else ''}'"
