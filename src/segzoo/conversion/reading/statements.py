"""Statements of a config's text, read top to bottom: assignments, changes in place, ``if`` and ``for`` over literals.

A statement that cannot be read stops nothing. What it would assign or change becomes `Unreadable`.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

from segzoo.conversion.errors import ConfigLimitError, ConfigReadError
from segzoo.conversion.reading.effects import assigns_base, describe, imports_base
from segzoo.conversion.reading.functions import BaseDict, items_of, operate
from segzoo.conversion.reading.limits import Budget
from segzoo.conversion.reading.literals import FIX_RESOLVED, NEVER_EXECUTED, LiteralReader
from segzoo.conversion.reading.unreadable import Unreadable, is_unreadable

_NOT_READ: dict[type[ast.AST], str] = {
    ast.With: "'with'",
    ast.While: "a 'while' loop",
    ast.Try: "'try'",
    ast.Break: "'break'",
    ast.Continue: "'continue'",
}


class StatementReader(LiteralReader):
    """Reads the statements of one file.

    Args:
        filename, budget, variables: as `LiteralReader` takes them.
        load_bases: reads the files that ``_base_`` names and gives their merged values. None: a ``_base_`` is refused.
    """

    def __init__(
        self,
        filename: str,
        budget: Budget,
        variables: dict[str, str],
        load_bases: Callable[[list[str], int], dict[str, Any]] | None,
    ):
        super().__init__(filename, budget, variables)
        self.load_bases = load_bases

    def run(self, module: ast.Module) -> None:
        """Reads every statement of ``module``.

        Raises:
            ConfigReadError: the base files cannot be read, or the text asks for too much work.
        """
        first = next((statement for statement in module.body if assigns_base(statement)), None)
        if first is not None and not any(isinstance(node, ast.Name) for node in ast.walk(first.value)):
            # The base files come first wherever the line stands, as in mmengine.
            self.statement(first)
        else:
            first = None
        for statement in module.body:
            if statement is not first:
                self.statement(statement)

    def block(self, statements: list[ast.stmt]) -> None:
        """Reads the statements of a branch or of one round of a loop."""
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        """Reads one statement, or marks what it would assign and change."""
        try:
            with self.errors_at(node):
                self.budget.charge(1)
                self.read(node)
        except ConfigLimitError:
            raise
        except ConfigReadError as error:
            if any(assigns_base(part) or imports_base(part) for part in ast.walk(node)):
                raise
            self.spoil(node, error)

    def read(self, node: ast.stmt) -> None:
        """Reads one statement; raises where it cannot."""
        match node:
            case ast.Assign(value=value) if assigns_base(node):
                self.assign_base(node, self.evaluate(value))
            case ast.Assign(targets=targets, value=value):
                result = self.attempt(value)
                for target in targets:
                    self.assign(target, result)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.assign(target, self.attempt(value))
            case ast.AugAssign(target=target, op=op, value=value):
                old = self.evaluate(target)
                self.assign(target, operate(op, old, self.evaluate(value), self.budget, in_place=True))
            case ast.Delete(targets=targets):
                for target in targets:
                    self.delete(target)
            case ast.If(test=test, body=body, orelse=orelse):
                self.block(body if self.evaluate(test) else orelse)
            case ast.For():
                self.loop(node)
            case ast.Import(names=names):
                for name in names:
                    self.import_module(name)
            case ast.ImportFrom():
                self.import_names(node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self.declare(name, f"a {'class' if isinstance(node, ast.ClassDef) else 'function'} of the file")
            case ast.Pass() | ast.Assert() | ast.Global() | ast.Raise():
                pass
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
                pass
            case ast.Expr(value=ast.Dict() | ast.Call(func=ast.Name(id="dict")) as value):
                # mmcv prints a config whose keys are not all identifiers as one dict
                self.names.update({key: item for key, item in self.evaluate(value).items() if isinstance(key, str)})
            case ast.Expr(value=value):
                self.evaluate(value)
            case ast.With() if imports_base(node):
                for statement in node.body:
                    self.import_base(statement)
            case _:
                raise self.error(node, f"{_NOT_READ.get(type(node)) or describe(node)} is not read", FIX_RESOLVED)

    def loop(self, node: ast.For) -> None:
        """Reads the body once for each item; each round is charged the size of its text."""
        nodes = self.nodes_of(node)
        if any(isinstance(part, ast.Break | ast.Continue) for part in nodes):
            raise self.error(node, "a 'for' loop with 'break' or 'continue' is not read", "write the values out")
        for item in items_of(self.evaluate(node.iter), self.budget):
            self.budget.charge(len(nodes))
            self.assign(node.target, item)
            self.block(node.body)
        self.block(node.orelse)

    def delete(self, target: ast.expr) -> None:
        """Removes a name or an item."""
        match target:
            case ast.Name(id=name) if name in self.names or name in self.objects:
                self.names.pop(name, None)
                self.objects.pop(name, None)
            case ast.Subscript(value=holder, slice=index):
                operator.delitem(self.holder(holder), self.evaluate(index))
            case ast.Attribute(attr=name):
                del self.keys_of(target)[name]
            case _:
                raise self.error(target, f"'del' of {describe(target)} is not read")

    # Names that stand for no literal

    def declare(self, name: str, kind: str) -> None:
        """Remembers a name that stands for no value."""
        self.names.pop(name, None)
        self.imported.pop(name, None)
        self.objects[name] = kind

    def import_module(self, module: ast.alias) -> None:
        """Remembers a module's name."""
        name = module.asname or module.name.partition(".")[0]
        self.declare(name, "a module that the file imports")
        self.imported[name] = module.name if module.asname else name

    def import_names(self, node: ast.ImportFrom) -> None:
        """Marks the names that ``from x import a, b`` brings: they may stand for values, which nobody can know."""
        self.budget.charge(50 * len(node.names))  # each is bound to an error of its own
        module = "." * node.level + (node.module or "")
        for imported in node.names:
            name = imported.asname or imported.name
            if name == "*" or module == "__future__":
                continue
            cause = f"'from {module} import {imported.name}' is not read: {NEVER_EXECUTED}"
            self.bind(name, Unreadable(self.error(node, cause, FIX_RESOLVED)))
            self.imported[name] = f"{module}.{imported.name}".lstrip(".")

    # Base files

    def assign_base(self, node: ast.Assign, value: Any) -> None:
        """Reads the base files."""
        references = [value] if isinstance(value, str) else value
        if not isinstance(references, list | tuple) or not all(isinstance(item, str) for item in references):
            raise self.error(node, "'_base_' must be a file name or a list of file names")
        if self.base is not None:
            raise self.error(node, "'_base_' is assigned twice", "put all base files into one list")
        self.base = self.bases(list(references), node)

    def import_base(self, node: ast.stmt) -> None:
        """Reads a base file as mmengine's lazy configs name it: an import under ``with read_base():``.

        ``from ..a.b import *`` is the file ``../a/b.py``, ``from mmseg.configs.a.b import *`` is ``mmseg::a/b.py``.

        Raises:
            ConfigLimitError: it is another statement, or the file cannot be read.
        """
        if not isinstance(node, ast.ImportFrom) or not node.module:
            cause = f"{describe(node)} under 'with read_base()' is not read"
            raise ConfigLimitError(self.filename, node.lineno, cause, "only 'from file import names' is")
        path = node.module.split(".")
        if node.level:
            reference = "../" * (node.level - 1) + "/".join(path)
        else:
            reference = f"{path[0]}::" + "/".join(path[2 if path[1:2] == ["configs"] else 1 :])
        values = self.bases([f"{reference}.py"], node)
        not_there = next(iter(values.values())) if values and all(map(is_unreadable, values.values())) else None
        for name in node.names:
            if name.name == "*":
                for key, value in values.items():
                    self.bind(key, value)
            elif name.name in values:
                self.bind(name.asname or name.name, values[name.name])
            else:
                cause = f"the base file '{reference}.py' has no {name.name!r}"
                self.bind(
                    name.asname or name.name, Unreadable(self.error(node, cause)) if not_there is None else not_there
                )

    def bases(self, references: list[str], node: ast.stmt) -> Any:
        """The merged values of base files.

        Raises:
            ConfigLimitError: there is no folder to find them in.
            ConfigReadError: they cannot be read.
        """
        if self.load_bases is None:
            raise ConfigLimitError(
                self.filename,
                node.lineno,
                f"the text builds on base files ({', '.join(references)}), and it has no folder to find them in",
                "give the config as a file, beside its base files",
            )
        return _as_base(self.load_bases(references, node.lineno))


def _as_base(value: Any) -> Any:
    """``value`` with every dict as a BaseDict."""
    if type(value) is dict:
        return BaseDict({key: _as_base(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(_as_base(item) for item in value)
    return value
