"""The IP addresses behind names, for as long as they can be relied on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from punch.node.reflector_finder import look_up
from punch.wire.address import canonical

FRESH = 300.0
"""Seconds after which a name that is used is looked up again."""
KEPT = 3600.0
"""Seconds for which addresses are used if the name can't be looked up any more."""


@dataclass(slots=True)
class _Known:
    hosts: list[str] = field(default_factory=list)
    since: float = float("-inf")
    """When they were told, in monotonic seconds."""
    looking_up: bool = False


class HostAddresses:
    """
    Looks names up, and again when what is known may be wrong. Meanwhile the known addresses are used.

    :param reactor: resolves names.
    :param changed: called when the addresses of a name are known, or are others than before.
    """

    def __init__(self, reactor: Any, monotonic: Callable[[], float], changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._monotonic = monotonic
        self._changed = changed
        self._known: dict[str, _Known] = {}

    def of(self, name: str) -> list[str]:
        """The addresses of a host that are known now; an address is its own. Old ones are looked up again."""
        literal = _literal(name)
        if literal is not None:
            return [literal]
        known = self._known.get(name)
        if known is None:
            self.look_up(name)
            known = self._known[name]
        age = self._monotonic() - known.since
        if age >= FRESH:
            self.look_up(name)
        return list(known.hosts) if age < KEPT else []

    def look_up(self, name: str) -> None:
        """What is known of this name may be wrong."""
        if _literal(name) is not None:
            return
        known = self._known.setdefault(name, _Known())
        if not known.looking_up:
            known.looking_up = True
            look_up(self._reactor, name, partial(self._resolved, name, known))

    def look_up_all(self) -> None:
        """What is known of all names may be wrong: the network is another one."""
        for name in list(self._known):
            self.look_up(name)

    def keep(self, names: set[str]) -> None:
        """Forget all other names."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    def _resolved(self, name: str, known: _Known, hosts: list[str]) -> None:
        known.looking_up = False
        if not hosts or self._known.get(name) is not known:
            return  # To be asked again the next time; what was known stays good for a while
        found = list(dict.fromkeys(canonical(host, 1).host for host in hosts))
        before, known.hosts, known.since = known.hosts, found, self._monotonic()
        if set(found) != set(before):
            self._changed()


def _literal(name: str) -> str | None:
    """The canonical form of an IP address, None for a name."""
    try:
        return canonical(name, 1).host
    except ValueError:
        return None
