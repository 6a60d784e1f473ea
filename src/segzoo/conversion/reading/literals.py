"""Expressions of a config's text, read as literals and never executed.

This module walks the syntax tree. It knows constants, containers, comprehensions, names assigned earlier, operators,
subscripts, f-strings, and the functions and methods of `functions`. Anything else raises a ConfigReadError with its
line; inside a list, a tuple or a dict it leaves an `Unreadable` in its place, so that the rest of the value is read.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from segzoo.conversion.errors import ConfigLimitError, ConfigReadError
from segzoo.conversion.reading import functions
from segzoo.conversion.reading.effects import assigned_names, changed_values, describe
from segzoo.conversion.reading.functions import BaseDict, dict_of, items_of, set_of
from segzoo.conversion.reading.limits import MAX_NESTING, Budget, TooMuch
from segzoo.conversion.reading.unreadable import Unreadable, cause_of, is_unreadable

FIX_RESOLVED = "write the resolved config as literals (mmsegmentation's print_config prints it)"
NEVER_EXECUTED = "a config is data here and is never executed"


class LiteralReader:
    """Reads the expressions of one file.

    Args:
        filename: name for messages.
        budget: shared by a config and its base files.
        variables: the predefined variables (``fileDirname`` ...) that ``{{ name }}`` stands for.

    Attributes:
        names: what the file assigned, in order.
        objects: the names that stand for no value (modules, functions, classes), and what each of them is.
        imported: the dotted path that each imported name stands for.
        base: the values of the base files, which ``_base_`` stands for; None before the assignment to it.
        spoiled: by ``id``, the lists and dicts that something unreadable may have changed, and what that was.
    """

    def __init__(self, filename: str, budget: Budget, variables: dict[str, str]):
        self.filename = filename
        self.budget = budget
        self.variables = variables
        self.names: dict[str, Any] = {}
        self.objects: dict[str, str] = {}
        self.imported: dict[str, str] = {}
        self.base: BaseDict | None = None
        self.spoiled: dict[int, tuple[Any, Unreadable]] = {}
        self._depth = 0
        names = "|".join(map(re.escape, self.variables)) or r"(?!)"
        self._placeholder = re.compile(rf"\{{\{{\s*({names})\s*\}}\}}")
        self._f_placeholder = re.compile(rf"\{{\s*({names})\s*\}}")

    def error(self, node: ast.AST, cause: str, fix: str | None = None) -> ConfigReadError:
        """A ConfigReadError at the line of ``node``."""
        return ConfigReadError(self.filename, getattr(node, "lineno", None), cause, fix)

    @contextmanager
    def errors_at(self, node: ast.AST) -> Iterator[None]:
        """Turns the errors that wrong values bring into errors of the line.

        Raises:
            ConfigLimitError: the work or the memory is too much.
            ConfigReadError: anything else.
        """
        try:
            yield
        except ConfigReadError:
            raise
        except KeyError as error:
            raise self.error(node, f"there is no key {error}") from None
        except (TypeError, ValueError, IndexError, ArithmeticError, AttributeError) as error:
            raise self.error(node, str(error)) from None
        except (TooMuch, MemoryError, RecursionError) as error:
            cause = str(error) if isinstance(error, TooMuch) else "the value is too large"
            raise ConfigLimitError(self.filename, getattr(node, "lineno", None), cause) from None

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression.

        Raises:
            ConfigReadError: it cannot be read.
        """
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self.error(node, f"{describe(node)} is not read", FIX_RESOLVED)
        self._depth += 1
        try:
            with self.errors_at(node):
                if self._depth > MAX_NESTING:
                    raise TooMuch(f"the text is nested more than {MAX_NESTING} levels deep")
                value = method(node)
                self.budget.charge_deep(value)
        finally:
            self._depth -= 1
        return self.usable(value)

    def usable(self, value: Any) -> Any:
        """``value`` itself; raises the error of one that could not be read."""
        if is_unreadable(value):
            raise cause_of(value)
        if id(value) in self.spoiled:
            raise cause_of(self.spoiled[id(value)][1])
        return value

    def attempt(self, node: ast.expr) -> Any:
        """The value of an expression, or an `Unreadable` where it cannot be read."""
        try:
            return self.evaluate(node)
        except ConfigLimitError:
            raise
        except ConfigReadError as error:
            return self.spoil(node, error)

    def spoil(self, node: ast.AST, error: ConfigReadError) -> Unreadable:
        """Marks what ``node``, which cannot be read, would assign or change; gives the mark."""
        marker = Unreadable(error)
        with self.errors_at(node):
            nodes = self.nodes_of(node)
        for holder in changed_values(nodes):
            self.spoil_value(holder, marker)
        for name in assigned_names(nodes):
            self.bind(name, marker)
        return marker

    def spoil_value(self, node: ast.expr, marker: Unreadable) -> None:
        """Marks the list or dict that ``node`` stands for, or the one that it lies in, under whatever name."""
        try:
            value = self.holder(node)
        except ConfigLimitError:
            raise
        except ConfigReadError:
            if isinstance(node, ast.Attribute | ast.Subscript):
                self.spoil_value(node.value, marker)
        else:
            if isinstance(value, list | dict | set):
                self.spoiled[id(value)] = (value, marker)

    def nodes_of(self, node: ast.AST) -> list[ast.AST]:
        """``node`` and all nodes within, charged."""
        nodes = list(ast.walk(node))
        self.budget.charge(10 + len(nodes))
        return nodes

    # Names and what lies in them

    def bind(self, name: str, value: Any) -> None:
        """Assigns a value to a name."""
        self.names[name] = value
        self.imported.pop(name, None)

    def is_known(self, node: ast.expr) -> bool:
        """Whether ``node`` begins with a value, not with the name of a module."""
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return not isinstance(node, ast.Name) or node.id in self.names or node.id == "_base_"

    def _name(self, node: ast.Name) -> Any:
        if node.id == "_base_":
            raise self.error(node, "'_base_' alone is no value", "name one of its keys: '_base_.key'")
        if node.id in self.names:
            return self.names[node.id]
        if node.id in self.objects:
            raise self.error(node, f"'{node.id}' is {self.objects[node.id]}: {NEVER_EXECUTED}", FIX_RESOLVED)
        if node.id in ("inf", "nan"):  # how mmcv prints these two floats
            return float(node.id)
        in_base = self.base is not None and node.id in self.base
        fix = f"a value of a base file is '_base_.{node.id}'" if in_base else "assign it first, or write its value"
        raise self.error(node, f"the name {node.id!r} has no value here", fix)

    def holder(self, node: ast.expr) -> Any:
        """The value before ``.key`` or ``[key]``: as any expression, and ``_base_`` too."""
        if not (isinstance(node, ast.Name) and node.id == "_base_"):
            return self.evaluate(node)
        if self.base is None:
            raise self.error(node, "'_base_' is used, and no base file is named before")
        return self.usable(self.base)

    def keys_of(self, node: ast.Attribute) -> dict[Any, Any]:
        """The dict before ``.key``, whose keys can be read and set as attributes."""
        if not self.is_known(node):
            raise self.error(node, f"{describe(node)} is an object of a module, not a literal", FIX_RESOLVED)
        values = self.holder(node.value)
        if not isinstance(values, dict):
            raise self.error(node, f"'.{node.attr}': a {type(values).__name__} has no keys")
        return values

    def _attribute(self, node: ast.Attribute) -> Any:
        values = self.keys_of(node)
        if node.attr not in values:
            raise self.error(node, f"{describe(node)}: there is no key {node.attr!r}")
        return values[node.attr]

    def _subscript(self, node: ast.Subscript) -> Any:
        return operator.getitem(self.holder(node.value), self.evaluate(node.slice))

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(None if part is None else self.evaluate(part) for part in (node.lower, node.upper, node.step)))

    def assign(self, target: ast.expr, value: Any) -> None:
        """Binds ``value`` to a name, to several, to an item or to an attribute of ``_base_``."""
        match target:
            case ast.Name(id="_base_"):
                raise self.error(target, "'_base_' is not assigned alone", "give it a line of its own")
            case ast.Name(id=name):
                self.bind(name, value)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                values = [value] * len(elements) if is_unreadable(value) else self.unpacked(target, elements, value)
                for element, item in zip(elements, values, strict=True):
                    self.assign(element.value if isinstance(element, ast.Starred) else element, item)
            case ast.Subscript(value=node, slice=index):
                holder, key = self.holder(node), self.evaluate(index)
                if not isinstance(holder, dict | list) or isinstance(key, slice):
                    raise self.error(target, f"an item of a {type(holder).__name__}, or a slice, cannot be set")
                holder[key] = value
            case ast.Attribute(attr=name):
                self.keys_of(target)[name] = value
            case _:
                raise self.error(target, f"an assignment to {describe(target)} is not read")

    def unpacked(self, target: ast.expr, elements: list[ast.expr], value: Any) -> list[Any]:
        """One value for each of several targets, one of which may be starred."""
        values = items_of(value, self.budget)
        stars = [i for i, element in enumerate(elements) if isinstance(element, ast.Starred)]
        if len(values) != len(elements) if not stars else len(values) < len(elements) - 1:
            raise self.error(target, f"{len(values)} values are unpacked into {len(elements)} names")
        if stars:
            stop = len(values) - (len(elements) - stars[0] - 1)
            values = [*values[: stars[0]], values[stars[0] : stop], *values[stop:]]
        return values

    # Containers

    def _constant(self, node: ast.Constant) -> Any:
        value = node.value
        if isinstance(value, str) and "{{" in value:
            value = self._placeholder.sub(lambda match: self.variables[match[1]], value)
            if re.search(r"\{\{\s*\$", value):
                raise self.error(node, "environment variables are not read", "write the value in their place")
        return value

    def items(self, elements: list[ast.expr]) -> list[Any]:
        """The values of the elements of a list, with ``*x`` spread out."""
        values: list[Any] = []
        for element in elements:
            if isinstance(element, ast.Starred):
                values.extend(items_of(self.evaluate(element.value), self.budget))
            else:
                values.append(self.attempt(element))
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
                if describe(inner).startswith("'_base_."):
                    return self.evaluate(inner)
                raise self.error(node, f"'{{{{ {describe(inner)[1:-1]} }}}}' is no known variable")
        return set_of(self.items(node.elts), self.budget)

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        pairs: list[tuple[Any, Any]] = []
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                pairs.extend(self.spread(item))
            else:
                name = self.evaluate(key)
                pairs.append((name, self.named(name, item)))
        return dict_of(pairs, self.budget)

    def new_dict(self, node: ast.Call) -> dict[Any, Any]:
        """The value of ``dict(...)``."""
        pairs: list[Any] = []
        if len(node.args) > 1:
            raise self.error(node, "dict() takes one value and names")
        for argument in node.args:
            value = self.evaluate(argument)
            items = value.items() if isinstance(value, dict) else items_of(value, self.budget)
            pairs.extend(tuple(items_of(pair, self.budget)) for pair in items)
        for keyword in node.keywords:
            if keyword.arg is None:
                pairs.extend(self.spread(keyword.value))
            else:
                pairs.append((keyword.arg, self.named(keyword.arg, keyword.value)))
        return dict_of(pairs, self.budget)

    def spread(self, node: ast.expr) -> list[tuple[Any, Any]]:
        """The items of ``**node``."""
        value = self.evaluate(node)
        if not isinstance(value, dict):
            raise self.error(node, f"a {type(value).__name__} cannot be spread with '**'")
        return list(value.items())

    def named(self, name: Any, node: ast.expr) -> Any:
        """The value of one key of a dict. A type may be an imported class, which reads as its dotted path."""
        path = self.dotted(node) if name == "type" else None
        return self.attempt(node) if path is None else path

    def dotted(self, node: ast.expr) -> str | None:
        """``torch.nn.ReLU`` for the names under which it can be imported; None for any other expression."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute) and len(attributes) < MAX_NESTING:
            attributes.insert(0, node.attr)
            node = node.value
        path = self.imported.get(node.id) if isinstance(node, ast.Name) else None
        return None if path is None else ".".join([path, *attributes])

    # Comprehensions

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> list[Any]:
        return self.comprehension(node, lambda: self.evaluate(node.elt))

    _generatorexp = _listcomp

    def _setcomp(self, node: ast.SetComp) -> set[Any]:
        return set_of(self._listcomp(node), self.budget)

    def _dictcomp(self, node: ast.DictComp) -> dict[Any, Any]:
        pairs = self.comprehension(node, lambda: (self.evaluate(node.key), self.evaluate(node.value)))
        return dict_of(pairs, self.budget)

    def comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, element: Callable[[], Any]
    ) -> list[Any]:
        """The value of ``element`` for each round of the loops, whose names are forgotten after them."""
        size = len(self.nodes_of(node))
        targets = [loop.target for loop in node.generators]
        local = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        before = {name: self.names[name] for name in local & self.names.keys()}
        results: list[Any] = []
        try:
            for _ in self.rounds(node.generators, size):
                results.append(element())
        finally:
            for name in local:
                self.names.pop(name, None)
            self.names.update(before)
        return results

    def rounds(self, loops: list[ast.comprehension], size: int) -> Iterator[None]:
        """Goes through nested loops, with their names bound; each round is charged the ``size`` of the text."""
        if not loops:
            yield
            return
        for item in items_of(self.evaluate(loops[0].iter), self.budget):
            self.budget.charge(size)
            self.assign(loops[0].target, item)
            if all(self.evaluate(test) for test in loops[0].ifs):
                yield from self.rounds(loops[1:], size)

    # Calls

    def _call(self, node: ast.Call) -> Any:
        match node.func:
            case ast.Name(id=name) if name in self.names:
                self.evaluate(node.func)  # one that could not be read says why
            case ast.Name(id="dict") if "dict" not in self.objects:
                return self.new_dict(node)
            case ast.Name(id=name) if name in functions.FUNCTIONS and name not in self.objects:
                return functions.call_function(name, *self.arguments(node), self.budget)
            case ast.Attribute(value=holder, attr=name) if self.is_known(holder):
                value = self.holder(holder)
                if functions.has_method(value, name):
                    return functions.call_method(value, name, *self.arguments(node), self.budget)
        raise self.error(
            node, f"the call of {describe(node.func)} is not read: {NEVER_EXECUTED}", "write its result out"
        )

    def arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        """The values of a call's arguments, without and with names; each of them must be readable."""
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                keywords.update(self.spread(keyword.value))
            else:
                keywords[keyword.arg] = self.evaluate(keyword.value)
        return [self.usable(value) for value in self.items(node.args)], keywords

    # Operators and texts

    def _binop(self, node: ast.BinOp) -> Any:
        return functions.operate(node.op, self.evaluate(node.left), self.evaluate(node.right), self.budget)

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        return functions.UNARY[type(node.op)](self.evaluate(node.operand))

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
            if not functions.COMPARE[type(op)](left, right):
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
        return "".join(parts)

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        value = functions.convert(self.evaluate(node.value), node.conversion, self.budget)
        return functions.formatted(value, self._joinedstr(node.format_spec) if node.format_spec else "", self.budget)
