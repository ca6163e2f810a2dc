"""Conditions on the columns of the index: ``chars_per_second < 25 and snr_db > 10``.

The text is parsed as a Python expression, but never evaluated as one: each part of its syntax tree that is listed here
becomes a call of Arrow, and anything else is refused. As in SQL, a comparison with a missing value is neither true nor
false.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.errors import ConfigError, suggest

MAX_CHARS = 10_000
"""Longest condition that is parsed."""
MAX_DEPTH = 50
"""Deepest nesting of a condition."""
Values = Any  # a pyarrow array or scalar: pyarrow has no types for mypy
Columns = Mapping[str, Values]
"""Columns by name; a name may have dots."""

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Values, Values], Values]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Values, Values], Values]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_ON_TEXT: Mapping[str, Callable[..., Values]] = {
    "contains": pc.match_substring,
    "startswith": pc.starts_with,
    "endswith": pc.ends_with,
    "matches": pc.match_substring_regex,
}
FUNCTIONS = ("abs", "len", "lower", *_ON_TEXT)
"""Functions of a condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One of the conditions that ``and`` joins."""

    text: str
    """As it was written, with spaces in their usual places."""
    tree: ast.expr
    """Its syntax tree."""


def parse_condition(text: str) -> tuple[Clause, ...]:
    """Return the clauses of a condition.

    Raises:
        ConfigError: It is empty, too long, or no expression.
    """
    if not text.strip():
        raise ConfigError('--where is empty; give a condition, such as "chars_per_second < 25 and snr_db > 10"')
    if len(text) > MAX_CHARS:
        raise ConfigError(f"--where has {len(text)} characters, more than {MAX_CHARS}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        if isinstance(error, SyntaxError) and error.offset:
            words += f" at character {error.offset}"
        raise ConfigError(f"--where {text.strip()!r}: {words}") from error
    _check_depth(tree)
    return tuple(Clause(text=ast.unparse(part), tree=part) for part in _split(tree))


def names_in(clauses: Sequence[Clause]) -> set[str]:
    """Return the names of columns in some clauses, those that do not exist included."""
    return set().union(*(_names_in(clause.tree) for clause in clauses))


def _names_in(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name | ast.Attribute):
        return {ast.unparse(node)}
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return set().union(*map(_names_in, children))


def evaluate(clause: Clause, columns: Columns) -> Values:
    """Return for each row whether a clause holds: true, false or null.

    Args:
        clause: A part of a condition.
        columns: All columns; of length 0 to check the clause alone.

    Raises:
        ConfigError: An unknown column, types that do not fit, or syntax that is not allowed.
    """
    found = _evaluate(clause.tree, columns)
    if _kind(found) != "truth":
        raise _fault(clause.tree, f"is {_kind(found)}, not a condition")
    num_rows = len(next(iter(columns.values())))
    return pa.array([found.as_py()] * num_rows, pa.bool_()) if isinstance(found, pa.Scalar) else found


def _split(tree: ast.expr) -> Iterator[ast.expr]:
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        for value in tree.values:
            yield from _split(value)
    else:
        yield tree


def _check_depth(tree: ast.expr) -> None:
    level: Sequence[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise ConfigError(f"--where is nested more than {MAX_DEPTH} deep")


def _evaluate(node: ast.expr, columns: Columns) -> Values:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return _constant(node, value)
        case ast.Name() | ast.Attribute():
            return _column(node, columns)
        case ast.BoolOp():
            combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            found = _operand(node.values[0], columns, "truth")
            for operand in node.values[1:]:
                found = combine(found, _operand(operand, columns, "truth"))
            return found
        case ast.UnaryOp(op=ast.Not()):
            return pc.invert(_operand(node.operand, columns, "truth"))
        case ast.UnaryOp(op=ast.USub()):
            return pc.negate(_operand(node.operand, columns, "a number"))
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            sides = (_operand(side, columns, "a number").cast(pa.float64()) for side in (node.left, node.right))
            return _ARITHMETIC[type(node.op)](*sides)
        case ast.Compare():
            return _compare(node, columns)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return _call(node, name, columns)
    raise _fault(node, "is not allowed in a condition")


def _constant(node: ast.Constant, value: Any) -> Values:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 1 << 63:
            raise _fault(node, "is too large")
        return pa.scalar(value, pa.int64())
    return pa.scalar(value)


def _column(node: ast.Name | ast.Attribute, columns: Columns) -> Values:
    name = ast.unparse(node)
    if name not in columns:
        hint = suggest(name, list(columns)) or f"; there are {', '.join(columns)}"
        raise ConfigError(f"--where: there is no column {name}{hint}")
    return columns[name]


def _operand(node: ast.expr, columns: Columns, kind: str) -> Values:
    found = _evaluate(node, columns)
    if _kind(found) != kind:
        raise _fault(node, f"is {_kind(found)}, but {kind} is needed there")
    return found


def _compare(node: ast.Compare, columns: Columns) -> Values:
    """Return a comparison; a chain of them, ``5 < snr_db < 10``, is true where all are."""
    found = None
    for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
        part = _compare_two(left, operator, right, columns)
        found = part if found is None else pc.and_kleene(found, part)
    return found


def _compare_two(left: ast.expr, operator: ast.cmpop, right: ast.expr, columns: Columns) -> Values:
    value = _evaluate(left, columns)
    if isinstance(operator, ast.Is | ast.IsNot):
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise _fault(right, "cannot follow `is`: only None can")
        return pc.is_null(value) if isinstance(operator, ast.Is) else pc.is_valid(value)
    if isinstance(operator, ast.In | ast.NotIn):
        found = _is_in(left, value, right, columns)
        return found if isinstance(operator, ast.In) else pc.invert(found)
    other = _evaluate(right, columns)
    kinds = {_kind(value), _kind(other)}
    if "nothing" in kinds:
        raise _fault(right, "is compared with `is None` or `is not None`")
    if len(kinds) > 1:
        raise _mismatch(left, value, right, other)
    return _COMPARISONS[type(operator)](*_same_precision(value, other))


def _is_in(left: ast.expr, value: Values, right: ast.expr, columns: Columns) -> Values:
    if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
        raise _fault(right, "is not a list; `in` needs one, such as ['en', 'de']")
    found = None
    for element in right.elts:
        if not isinstance(element, ast.Constant):
            raise _fault(element, "is not a value; a list holds numbers or texts")
        other = _evaluate(element, columns)
        if _kind(other) != _kind(value):
            raise _mismatch(left, value, element, other)
        part = pc.equal(*_same_precision(value, other))
        found = part if found is None else pc.or_kleene(found, part)
    return found


def _call(node: ast.Call, name: str, columns: Columns) -> Values:
    if name not in FUNCTIONS:
        raise ConfigError(f"--where: there is no function {name}; there are {', '.join(FUNCTIONS)}")
    if len(node.args) != (2 if name in _ON_TEXT else 1):
        raise _fault(node, f"has {len(node.args)} arguments, {name} takes {2 if name in _ON_TEXT else 1}")
    if name == "abs":
        return pc.abs(_operand(node.args[0], columns, "a number"))
    value = _operand(node.args[0], columns, "text")
    if name in _ON_TEXT:
        pattern = node.args[1]
        if not (isinstance(pattern, ast.Constant) and isinstance(pattern.value, str)):
            raise _fault(pattern, "is not a text in quotes")
        try:
            _ON_TEXT[name](pa.array([""]), pattern.value)  # of no texts at all, Arrow does not look at the pattern
            return _ON_TEXT[name](value, pattern.value)
        except pa.ArrowInvalid as error:
            words = " ".join(str(error).split())[:200]
            raise _fault(pattern, f"is not a regular expression ({words})") from error
    return pc.utf8_length(value) if name == "len" else pc.utf8_lower(value)


def _same_precision(left: Values, right: Values) -> tuple[Values, Values]:
    """Round a number to the precision of the column it is compared with, so that 10.1 equals a stored 10.1."""
    if left.type == pa.float32() and isinstance(right, pa.Scalar):
        return left, right.cast(pa.float64()).cast(pa.float32())
    if right.type == pa.float32() and isinstance(left, pa.Scalar):
        return left.cast(pa.float64()).cast(pa.float32()), right
    return left, right


def _kind(values: Values) -> str:
    kind = values.type
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "nothing" if pa.types.is_null(kind) else "a number"


def _mismatch(left: ast.expr, value: Values, right: ast.expr, other: Values) -> ConfigError:
    return _fault(left, f"is {_kind(value)}, and {ast.unparse(right)} is {_kind(other)}: these cannot be compared")


def _fault(node: ast.AST, words: str) -> ConfigError:
    return ConfigError(f"--where: {ast.unparse(node)} {words}")
