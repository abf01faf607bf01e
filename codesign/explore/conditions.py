"""Conditions on the axes of a space: comparisons and arithmetic in Python's notation, and nothing else of Python."""

from __future__ import annotations

import ast
from functools import cache
from types import CodeType
from warnings import catch_warnings

from isa_model.diagnostics import at, suggest

MOST_CHARACTERS = 1000
"""Most characters of a condition: it is computed for every point."""
MOST_NESTED = 200
"""Most levels of a condition, few enough to be compiled wherever in a program it is."""
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_LOGIC = (ast.BoolOp, ast.And, ast.Or, ast.Not)
_ALLOWED = (
    *(*_ARITHMETIC, *_COMPARISONS, *_LOGIC),
    *(ast.Expression, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List),
)
"""What conditions may be made of: names, numbers, text, arithmetic and comparisons, but no calls, attributes or powers."""


@cache
def compiled(condition: str, axes: frozenset[str], texts: frozenset[str], index: int = 0) -> CodeType:
    """Return the code of a condition on `axes`, of which `texts` have values that are text.

    Raises the error of a validator for what is not such an expression. Arithmetic is for numbers alone: text times a number is
    text of any length.
    """
    shown = condition if len(condition) <= 80 else f"{condition[:77]}..."
    hint = "comparisons of axes and values, such as `bits >= 13`"
    if len(condition) > MOST_CHARACTERS:
        message = f"a condition of {len(condition)} characters; at most {MOST_CHARACTERS}"
        raise at("where", index, message=message, hint="several conditions: points keep all of them")
    try:
        with catch_warnings(action="ignore"):  # of what is refused below
            tree = ast.parse(condition.strip(), mode="eval")
            if _nesting(tree) > MOST_NESTED:
                raise RecursionError
            code = compile(tree, "<where>", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise at("where", index, message=f"`{shown}` is not an expression", hint=hint) from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__.lower()
            raise at("where", index, message=f"`{shown}`: a condition has no {what}", hint=hint)
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float | str):
            message = f"`{shown}`: `{ast.unparse(node)[:40]}` is neither a number nor text"
            raise at("where", index, message=message, hint=hint)
        if isinstance(node, ast.Name) and node.id not in axes:
            near = suggest(node.id, axes) or f"axes: {', '.join(sorted(axes))}"
            raise at("where", index, message=f"no axis is called `{node.id}`", hint=near)
        for part in _calculated(node):
            if _is_text(part, texts):
                message = f"`{shown}`: arithmetic with `{ast.unparse(part)[:40]}`, which is no number"
                raise at("where", index, message=message, hint=hint)
    return code


def _nesting(tree: ast.AST) -> int:
    """Return the number of levels of a tree."""
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _calculated(node: ast.AST) -> list[ast.expr]:
    """Return what a node does arithmetic with."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    return [node.operand] if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else []


def _is_text(node: ast.expr, texts: frozenset[str]) -> bool:
    """Return whether an expression may give text or a list. `and` and `or` give one of their parts."""
    if isinstance(node, ast.BoolOp):
        return any(_is_text(part, texts) for part in node.values)
    if isinstance(node, ast.Name):
        return node.id in texts
    return isinstance(node, ast.Tuple | ast.List) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
