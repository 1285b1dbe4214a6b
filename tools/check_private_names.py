"""
Fail if a test reaches into a private attribute of one of our classes.

    python tools/check_private_names.py

Private attributes are those with one leading underscore that a module of `punch` assigns or defines. A test
may have such names of its own: on `self`, on `cls`, and on objects of classes in the same file. Modules that
are not ours, such as `os`, may have them as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def reached(node: ast.expr, foreign: set[str]) -> str | None:
    """The attribute of another object, or of a module of ours, that an expression names, if it is one."""
    match node:
        case ast.Attribute(value=ast.Name(id=name)) if name in foreign:
            return None
        case ast.Attribute(value=value, attr=attr) if not is_self(value):
            return attr
        case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(attr)), *_]):
            return attr
    return None


def defined_in(tree: ast.AST) -> Iterator[str]:
    """Private attributes that a module's classes have: methods, fields, and what is assigned to `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield item.name
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.target.id
                elif isinstance(item, ast.Assign):
                    yield from (target.id for target in item.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            yield node.attr


def foreign_modules(tree: ast.AST) -> set[str]:
    """The names of modules that are not ours, such as `os`, whose attributes are not looked at."""
    aliases = (alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    return {alias.asname or alias.name for alias in aliases if alias.name.partition(".")[0] != "punch"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def main() -> int:
    sources = [path for path in (ROOT / "punch").rglob("*.py") if "test" not in path.relative_to(ROOT).parts]
    named_tuple = {"_replace", "_asdict", "_fields", "_make"}
    ours = {name for path in sources for name in defined_in(parse(path)) if is_private(name)} - named_tuple
    found = []
    for path in sorted([*(ROOT / "punch/test").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        tree = parse(path)
        own, foreign = set(defined_in(tree)), foreign_modules(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and reached(node, foreign) in ours - own:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        print(f"{len(found)} uses of private attributes in tests: use public names")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
