"""No SQL is built where it is sent, and what is built is built at import from constants."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastgw

ROOT = Path(fastgw.__file__).parent
VERBS = {"fetch", "fetchrow", "fetchval", "execute", "executemany", "prepare", "execute_fetchall"}
BUILT_AT_IMPORT = {
    "noun.py",
    "spend.py",
    "store.py",
    "usage.py",
    "usage_reports.py",
    "v0001_initial.py",
}
"""Files whose texts are put together from their own constants; a test below looks at how."""
SQL_WORDS = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "DROP ", "ALTER ", "TRUNCATE ")


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "migrations" not in path.parts)


def is_built(node: ast.AST) -> bool:
    """Tell whether an expression puts a text together."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in node.values)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add | ast.Mod)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"format", "join", "replace", "format_map", "substitute"}
    )


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_statement_is_built_where_it_is_sent(path):
    """The text given to a verb of the store is a constant, a name or a look-up in a table."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in VERBS
            and node.args
        ):
            assert not is_built(node.args[0]), f"{path}:{node.lineno} builds SQL"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_statements_are_built_at_import_only(path):
    """An f-string that holds SQL stands in a file on the list, outside every coroutine."""
    tree = ast.parse(path.read_text())
    coroutines = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and is_built(node):
            text = "".join(
                part.value for part in node.values if isinstance(part, ast.Constant)
            ).upper()
            if not text.lstrip().startswith(SQL_WORDS):
                continue
            assert path.name in BUILT_AT_IMPORT, f"{path}:{node.lineno} builds SQL"
            for coroutine in coroutines:
                assert not coroutine.lineno <= node.lineno <= (coroutine.end_lineno or 0)
