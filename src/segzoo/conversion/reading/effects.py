"""What a piece of a config's text would assign or change if it could be read, and how messages quote it."""

import ast
from collections.abc import Iterator

from segzoo.conversion.reading.functions import READ_ONLY

# statements in which a function may be called for what it does to its arguments
_CALLING = ast.Expr | ast.If | ast.For | ast.While | ast.With | ast.Try


def assigned_names(nodes: list[ast.AST]) -> Iterator[str]:
    """The names that a piece of text, given as all of its nodes, would assign or delete."""
    loops = [name for part in nodes if isinstance(part, ast.comprehension) for name in ast.walk(part.target)]
    local = set(map(id, loops))
    for part in nodes:
        match part:
            case ast.Name(ctx=ast.Store() | ast.Del(), id=name) if id(part) not in local:
                yield name
            case ast.alias(name=name, asname=other) if name != "*":
                yield other or name.partition(".")[0]
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def changed_values(nodes: list[ast.AST]) -> Iterator[ast.expr]:
    """The expressions whose lists and dicts it may change in place: ``nodes`` of one statement or expression."""
    for part in nodes:
        match part:
            case ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del()):
                yield part.value
            case ast.AugAssign(target=target):
                yield target
            case ast.Call(func=ast.Name(id="print")):
                pass
            case ast.Call(func=function, args=arguments, keywords=keywords):
                if isinstance(function, ast.Attribute) and function.attr not in READ_ONLY:
                    yield function.value
                if isinstance(nodes[0], _CALLING):
                    yield from arguments
                    yield from (keyword.value for keyword in keywords)


def assigns_base(node: ast.AST) -> bool:
    """Whether a statement assigns ``_base_``, alone."""
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets)


def imports_base(node: ast.AST) -> bool:
    """Whether a statement is ``with read_base():``, under which mmengine's lazy configs import their base files."""
    match node:
        case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name(id="read_base")))]):
            return True
    return False


def describe(node: ast.expr | ast.stmt) -> str:
    """What a user would call this piece of text, in quotation marks; cheap however long it is."""
    if node.lineno != node.end_lineno or (node.end_col_offset or 0) - node.col_offset > 200:
        return f"a long piece of text ({type(node).__name__})"
    text = ast.unparse(node).splitlines()[0]
    return f"'{text[:60]}{'...' if len(text) > 60 else ''}'"
