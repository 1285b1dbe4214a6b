"""
A ban on Twisted's global reactor: everything under `punch` takes its reactor as a parameter.

While the ban is on, `twisted.internet.reactor` is an object that raises on any use, and remembers it, in case
what it raised was swallowed. `trial` has a reactor of its own, which comes back when the ban ends.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

import twisted.internet
from twisted.internet.interfaces import IReactorCore

_MODULE = "twisted.internet.reactor"
_MISSING = object()


class ReactorUsed(AssertionError):
    """The global reactor was used where it is banned."""


def _is_import_business(name: str) -> bool:
    # Import machinery and `warnings` look at such names of every module.
    return name.startswith("__") and name.endswith("__")


class BannedReactor:
    """Stands where the global reactor stood."""

    def __init__(self) -> None:
        self.__dict__["uses"] = []

    def _used(self, how: str) -> NoReturn:
        where = "".join(traceback.format_stack(limit=12)[:-2])
        self.__dict__["uses"].append(f"{how}, here:\n{where}")
        raise ReactorUsed(f"the global reactor was used: {how}")

    def __getattr__(self, name: str) -> Any:
        if _is_import_business(name):
            raise AttributeError(name)
        self._used(f"reactor.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if not _is_import_business(name):
            self._used(f"reactor.{name} = …")


@contextmanager
def no_reactor() -> Iterator[BannedReactor]:
    """
    Ban the global reactor for a while.

    :raise ReactorUsed: at its use; at the end as well, if what was raised then did not come out.
    """
    banned = BannedReactor()
    package = vars(twisted.internet)
    module, attribute = sys.modules.get(_MODULE, _MISSING), package.get("reactor", _MISSING)
    sys.modules[_MODULE] = banned  # type: ignore[assignment]
    package["reactor"] = banned
    try:
        yield banned
    finally:
        if module is _MISSING:
            del sys.modules[_MODULE]
        else:
            sys.modules[_MODULE] = module  # type: ignore[assignment]
        if attribute is _MISSING:
            del package["reactor"]
        else:
            package["reactor"] = attribute
    uses = vars(banned)["uses"]
    if uses:
        raise ReactorUsed(f"the global reactor was used {len(uses)} times; first {uses[0]}")


@contextmanager
def fresh_import(package: str) -> Iterator[None]:
    """Forget a package's modules, to import them anew in here; afterwards the old ones are back."""

    def loaded() -> dict[str, ModuleType]:
        prefix = f"{package}."
        return {
            name: module for name, module in sys.modules.items() if name == package or name.startswith(prefix)
        }

    before = loaded()
    attributes = {name: dict(vars(module)) for name, module in before.items()}
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)
        # Importing a submodule sets an attribute of its package.
        for name, module in before.items():
            vars(module).update(attributes[name])


def reactors_held(package: str) -> list[str]:
    """The modules of a package that hold a real reactor in a global variable, as `module.variable`."""
    held = []
    for name, module in sorted(sys.modules.items()):
        if name != package and not name.startswith(f"{package}."):
            continue
        for variable, value in list(vars(module).items()):
            if not isinstance(value, type) and IReactorCore.providedBy(value):
                held.append(f"{name}.{variable}")
    return held
