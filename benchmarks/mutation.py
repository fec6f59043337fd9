"""Single mutations of Python source: where they are possible, how they are found again and applied.

A `Site` is one change of one node of the syntax tree. It is named by what a move of the file leaves as it
is: the kind of change, the statement before (without the statements inside it), the node's place in that
statement and the qualified name of the function around it; the file's path is only a hint.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
MINMAX = {"min": "max", "minimum": "maximum", "amin": "amax", "argmin": "argmax", "clamp_min": "clamp_max"}
MINMAX |= {other: name for name, other in MINMAX.items()}
TALK = {"warn", "warning", "info", "debug", "error", "log", "print"}
BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
SKIPPED = (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.Match, ast.Global, ast.Nonlocal)
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef | None
Where = tuple[str, ...]  # field names and positions from a statement down to a node


class Site(NamedTuple):
    """One possible mutation."""

    kind: str
    statement: str
    """The statement before, unparsed, with `...` for the statements inside it."""
    after: str
    place: Where
    nth: int
    """Which of the equal statements of that function."""
    function: str
    """Qualified name of the function or class around it, "" at module level."""
    scope: str
    """function; cached, where the function keeps its results; or module, also for the body of a class."""
    file: str
    line: int

    def key(self) -> tuple[object, ...]:
        """What names the mutation wherever the file is."""
        return self.kind, self.statement, self.after, self.place, self.nth, self.function


def sites(source: str, file: str) -> list[Site]:
    """All mutations of a source text, in the order of its lines."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for statement, function, name in statements(ast.parse(source).body):
        text = header(statement)
        nth, seen[name, text] = seen[name, text], seen[name, text] + 1
        for kind, place in changes(statement, function):
            after = header(mutated(statement, kind, place))
            if after != text:
                site = Site(kind, text, after, place, nth, name, scope_of(function), file, statement.lineno)
                found.append(site)
    return found


def scope_of(function: Function) -> str:
    """What a test must have called to notice a change in that function."""
    if function is None:
        return "module"
    return "cached" if any("cache" in ast.unparse(d) for d in function.decorator_list) else "function"


def statements(
    body: list[ast.stmt], function: Function = None, name: str = ""
) -> Iterator[tuple[ast.stmt, Function, str]]:
    """Every statement that may be mutated, with its function and that one's qualified name.

    Defaults of a function count to that function; a class stands for the function of what is in its body.
    """
    for statement in body:
        is_scope = isinstance(statement, (*DEFS, ast.ClassDef))
        inner, inner_name = function, name
        if is_scope:
            joint = ".<locals>." if function else "."
            inner_name = f"{name}{joint}{statement.name}" if name else statement.name
            inner = statement if isinstance(statement, DEFS) else None
        if skipped(statement):
            continue
        yield (statement, inner, inner_name) if is_scope else (statement, function, name)
        for field in BODIES:
            for part in getattr(statement, field, []):
                within = part.body if isinstance(part, ast.ExceptHandler) else [part]
                yield from statements(within, inner, inner_name)


def skipped(statement: ast.stmt) -> bool:
    """Whether a statement is documentation, a message, an import or for type checkers."""
    if isinstance(statement, SKIPPED):
        return True
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test).endswith("TYPE_CHECKING")
    if isinstance(statement, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in statement.targets)
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and called(value) in TALK)


def called(call: ast.Call) -> str:
    """Last part of a called name, "" where it has none."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def header(statement: ast.stmt) -> str:
    """A statement's text, with `...` for the statements inside it."""
    if not any(getattr(statement, field, None) for field in BODIES):
        return ast.unparse(statement)
    bare = copy.copy(statement)
    for field in BODIES:
        if hasattr(bare, field):
            setattr(bare, field, [ast.Expr(ast.Constant(...))] if field == "body" else [])
    if isinstance(bare, ast.Try):
        bare.finalbody = [ast.Expr(ast.Constant(...))]
    return ast.unparse(bare)


def changes(statement: ast.stmt, function: Function) -> Iterator[tuple[str, Where]]:
    """Kind and place of every mutation of a statement, without those of the statements inside it."""
    if isinstance(statement, ast.Assign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if all(isinstance(target, ast.Attribute) for target in targets):
            yield "delete", ()
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        yield "delete", ()
    if isinstance(statement, ast.Return) and returns_less(statement, function):
        yield "return", ()
    for place, node in nodes(statement):
        if isinstance(node, ast.List | ast.Tuple | ast.Dict):
            for position in range(pairs(node, place, function)):
                yield f"swap {position}", place
        elif kind := kind_of(node, place):
            yield kind, place


def pairs(node: ast.List | ast.Tuple | ast.Dict, place: Where, function: Function) -> int:
    """Neighbouring entries of a display that may be swapped: none in a target, a slice or a type."""
    if isinstance(node, ast.Dict):
        return len(node.keys) - 1
    is_type = function is None and place[-1] == "slice"
    is_read = isinstance(node.ctx, ast.Load) and not any(isinstance(entry, ast.Slice) for entry in node.elts)
    return len(node.elts) - 1 if is_read and not is_type else 0


def returns_less(statement: ast.Return, function: Function) -> bool:
    """Whether None is a sensible mutation of what is returned: a flag, or what may be None anyway."""
    if function is None or function.returns is None or statement.value is None:
        return False
    kind = ast.unparse(function.returns)
    is_none = isinstance(statement.value, ast.Constant) and statement.value.value is None
    return (kind == "bool" or "None" in kind) and not is_none


def nodes(statement: ast.AST, place: Where = ()) -> Iterator[tuple[Where, ast.AST]]:
    """The nodes below a statement, without annotations, texts and inner statements, each with its place."""
    for field, value in ast.iter_fields(statement):
        if field in ("annotation", "returns", *BODIES) and not isinstance(statement, ast.Lambda | ast.IfExp):
            continue
        for position, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.stmt):
                continue
            where = (*place, f"{field}[{position}]" if isinstance(value, list) else field)
            yield where, node
            yield from nodes(node, where)


def kind_of(node: ast.AST, place: Where) -> str:
    """The kind of mutation possible at a node, "" where none is."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARE:
            return "compare"
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            return "arithmetic"
        case ast.BoolOp():
            return "boolean"
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            return "not"
        case ast.Constant(value=bool() | int() | float()):
            return "default" if any("defaults" in part for part in place) else "constant"
        case ast.Call(func=ast.Name() | ast.Attribute()) if called(node) in MINMAX:
            return "minmax"
    return ""


def mutated(statement: ast.stmt, kind: str, place: Where) -> ast.stmt:
    """A copy of the statement with that one change."""
    if kind == "delete":
        return ast.Pass()
    if kind == "return":
        return ast.Return(ast.Constant(None))
    made = copy.deepcopy(statement)
    change(node_at(made, place), kind)
    return made


def node_at(node: Any, place: Where) -> Any:
    """The node below another at that place."""
    for part in place:
        field, _, position = part.rstrip("]").partition("[")
        node = getattr(node, field)
        node = node[int(position)] if position else node
    return node


def change(node: Any, kind: str) -> None:
    """Make a mutation of that kind at a node, in place."""
    match node:
        case ast.Compare():
            node.ops = [COMPARE[type(node.ops[0])]()]
        case ast.BinOp():
            node.op = ARITHMETIC[type(node.op)]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant():
            node.value += 1
        case ast.Call(func=ast.Name()):
            node.func.id = MINMAX[node.func.id]
        case ast.Call():
            node.func.attr = MINMAX[node.func.attr]
        case ast.Dict() | ast.List() | ast.Tuple():
            entries = (
                node.values if isinstance(node, ast.Dict) else node.elts
            )  # a dict's order rarely matters
            first = int(kind.split()[1])
            entries[first : first + 2] = reversed(entries[first : first + 2])
        case ast.UnaryOp():  # the node becomes its operand
            node.__class__, node.__dict__ = node.operand.__class__, node.operand.__dict__


def apply(source: str, site: Site) -> str:
    """The source with the mutation in it.

    Raises:
        ValueError: no such statement, or the text made does not parse to the tree meant.
    """
    tree = ast.parse(source)
    matching = [
        statement
        for statement, _, name in statements(tree.body)
        if name == site.function and header(statement) == site.statement
    ]
    if len(matching) <= site.nth:
        raise ValueError(f"no statement {site.statement!r} in {site.function or 'the module'}")
    statement = matching[site.nth]
    node = node_at(statement, site.place)
    made = mutated(statement, site.kind, site.place)
    text = ast.unparse(node_at(made, site.place))
    text = text if isinstance(node, ast.stmt) else f"({text})"

    start, end = (
        offset(source, node.lineno, node.col_offset),
        offset(source, node.end_lineno, node.end_col_offset),
    )
    raw = source.encode()
    changed = (raw[:start] + text.encode() + raw[end:]).decode()

    if isinstance(node, ast.stmt):
        replace(tree, statement, made)
    else:
        change(node, site.kind)
    if ast.dump(ast.parse(changed)) != ast.dump(tree):
        raise ValueError(f"the text made of {site.statement!r} does not parse to the tree meant")
    return changed


def replace(tree: ast.AST, old: ast.stmt, new: ast.stmt) -> None:
    """Put a statement in another's place."""
    for node in ast.walk(tree):
        for field in BODIES:
            body = getattr(node, field, None)
            if isinstance(body, list) and old in body:
                body[body.index(old)] = new


def offset(source: str, line: int, column: int) -> int:
    """Position in the encoded source of a line and a column in bytes."""
    return sum(len(text.encode()) for text in source.splitlines(keepends=True)[: line - 1]) + column


def find(root: Path, folders: list[str], site: Site) -> Path | None:
    """The file of a tree that holds the mutation: the one named, else the only other one in those folders."""
    named = root / site.file
    if named.is_file() and holds(named, site):
        return named
    others = [
        path for folder in folders for path in sorted((root / folder).rglob("*.py")) if holds(path, site)
    ]
    same_name = [path for path in others if path.name == named.name]
    found = same_name if len(same_name) == 1 else others
    return found[0] if len(found) == 1 else None


def holds(path: Path, site: Site) -> bool:
    """Whether a file holds the mutation."""
    return site.key() in {other.key() for other in sites(path.read_text(), site.file)}
