"""docs/architecture.md: what its table "Where is …?" names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TABLE = PAGE.split("## Where is …?\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| ([^|]+\?) \| \[`([\w/.]+)`\]\(\.\./([\w/.]+)\) \| `([\w.]+)` \|$", TABLE, re.M)
MODULES = re.findall(r"`(punch/[\w/]+(?:\.py|/))`", PAGE)


def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """What a module or a class defines."""
    for node in body:
        match node:
            case ast.ClassDef(name=name, body=inner):
                yield prefix + name
                yield from names(inner, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from (prefix + each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def test_every_row_is_read() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(rows) - 2  # the heading and the line below it
    assert len(ROWS) >= 30


@pytest.mark.parametrize(("question", "module", "link", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_it_is_there(question: str, module: str, link: str, name: str) -> None:
    assert module == link
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    assert name in set(names(tree.body)), question


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_modules_exist(module: str) -> None:
    assert (ROOT / module).exists()
