"""
A program of its own that maps one port of a router by UPnP, or deletes the mapping, and ends.

What a router sends is read by a library in C, which waits for it, and which limits neither the length of an
answer nor the time that it takes. So this is not a part of the node: it has a process of its own, with at
most `MEMORY` bytes and `TIME` seconds. `punch.net.upnp` starts it, and knows what its output means.

It imports nothing of this project: the interpreter starts without `site`, which takes less time.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

TIME = 6
"""Seconds after which it is ended by a signal."""
MEMORY = 256 * 1024 * 1024
"""Bytes of address space, those of the interpreter among them."""
DESCRIPTION = "punch"
"""What the router calls our mappings."""
OTHERS = 3
"""How many external ports are tried if the first one is taken."""
MOST_ENTRIES = 64
"""How many mappings of the router are looked at for old ones of ours."""

PERMANENT_ONLY = "OnlyPermanentLeasesSupported"
SAME_PORT = "SamePortValuesRequired"
CONFLICT = "ConflictInMappingEntry"
_LEASE_REFUSED = (
    PERMANENT_ONLY,
    "Invalid Args",
    "Argument Value Invalid",
    "Argument Value Out of Range",
    "Action Failed",
)
"""After these errors the router may still make a mapping that stays until it is deleted."""
_PORT_REFUSED = (CONFLICT, "WildCardNotPermittedInExtPort", "Action Failed", "UnknownError")
"""After these errors it may still map another port."""

_SOCKETS = {"UDP": socket.SOCK_DGRAM, "TCP": socket.SOCK_STREAM}
"""The protocols, as UPnP names them, and the sockets that have them."""

Entry = tuple[str, int, str, bool, int]
"""Host, port, description, whether it is enabled, lifetime."""


class Igd(Protocol):
    """What is used of a router: methods of `miniupnpc.UPnP`, which raise `Exception` with an error's name."""

    def externalipaddress(self) -> str: ...
    def addportmapping(
        self, port: int, protocol: str, host: str, internal: int, name: str, remote: str, lifetime: int, /
    ) -> bool: ...
    def deleteportmapping(self, port: int, protocol: str, /) -> bool: ...
    def getspecificportmapping(self, port: int, protocol: str, /) -> Entry | None: ...
    def getgenericportmapping(self, index: int, /) -> tuple[Any, ...] | None: ...


class Refused(Exception):
    """The router does not do it; the text is the name of its error."""


def map_port(
    igd: Igd,
    protocol: str,
    host: str,
    internal: int,
    wished: int,
    lifetime: int,
    other: Callable[[], int],
) -> tuple[str, int, int]:
    """
    Have a port mapped, or the mapping renewed.

    :param protocol: "UDP" or "TCP".
    :param wished: the external port, if nobody else has it.
    :param lifetime: seconds.
    :param other: returns another external port to try.
    :return: the external address, empty if the router does not say it, the port, and the lifetime: 0 if the
        mapping stays until it is deleted.
    :raise Refused: the router maps none.
    """
    ports = [wished, *(other() for _ in range(OTHERS))]
    lifetimes = [lifetime, 0]
    error = CONFLICT
    while ports:
        port = ports.pop(0)
        # Some routers give a port to whoever asks last
        if not _may_be_ours(_entry(igd, port, protocol), host, internal):
            continue
        for seconds in list(lifetimes):
            error = _add(igd, port, protocol, host, internal, seconds)
            if error == PERMANENT_ONLY:
                lifetimes = [0]
            if error not in _LEASE_REFUSED:
                break
        if not error:
            entry = _entry(igd, port, protocol)
            if _may_be_ours(entry, host, internal):
                external = _external(igd)
                if entry is None and not external:
                    # The library takes every answer without an error for success
                    raise Refused("the router says nothing about the mapping, nor its address")
                kept = seconds if entry is None or entry[4] < 0 else entry[4]
                return external, port, kept
            error = CONFLICT
        elif error == SAME_PORT and port != internal:
            ports = [internal]
        elif error not in _PORT_REFUSED:
            break
    raise Refused(error)


def delete(igd: Igd, protocol: str, host: str, internal: int, port: int) -> None:
    """
    Delete our mapping, but not one that somebody else has now.

    :raise Refused: the router does not do it.
    """
    if not _may_be_ours(_entry(igd, port, protocol), host, internal):
        return
    try:
        igd.deleteportmapping(port, protocol)
    except Exception as error:  # the library raises no other class
        raise Refused(str(error)) from None


def delete_old(igd: Igd, host: str, is_free: Callable[[str, int], bool]) -> list[tuple[int, str]]:
    """
    Delete mappings of ours that were left behind, since they have no lifetime.

    :param is_free: whether no program has this port of our address, by its protocol and number.
    :return: their external ports and protocols.
    """
    old = [
        (port, protocol)
        for port, protocol, internal in _own_mappings(igd, host)
        if is_free(protocol, internal)
    ]
    for port, protocol in old:
        try:
            igd.deleteportmapping(port, protocol)
        except Exception:  # the library raises no other class
            break
    return old


def _own_mappings(igd: Igd, host: str) -> Iterator[tuple[int, str, int]]:
    for index in range(MOST_ENTRIES):
        try:
            found = igd.getgenericportmapping(index)
        except Exception:  # the library raises no other class
            return
        if found is None:
            return
        port, protocol, (client, internal), name = found[:4]
        if protocol in _SOCKETS and client == host and name == DESCRIPTION:
            yield port, protocol, internal


def _add(igd: Igd, port: int, protocol: str, host: str, internal: int, lifetime: int) -> str:
    """Return the name of the error, empty if there is none."""
    try:
        igd.addportmapping(port, protocol, host, internal, DESCRIPTION, "", lifetime)
    except Exception as error:  # the library raises no other class
        return str(error) or "UnknownError"
    return ""


def _entry(igd: Igd, port: int, protocol: str) -> Entry | None:
    """Who has an external port; None if nobody has it, or the router does not say it."""
    try:
        return igd.getspecificportmapping(port, protocol)
    except Exception:  # such as UnicodeDecodeError, for the description of another program
        return None


def _may_be_ours(entry: Entry | None, host: str, internal: int) -> bool:
    """Whether a port leads to our socket or, as far as the router says, nowhere."""
    return entry is None or (entry[0], entry[1]) == (host, internal)


def _external(igd: Igd) -> str:
    try:
        return igd.externalipaddress()
    except Exception:  # the library raises no other class
        return ""


def _is_free(host: str, protocol: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, _SOCKETS[protocol]) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _perform(
    url: str, protocol: str, host: str, internal: int, port: int, lifetime: int
) -> dict[str, object]:
    import miniupnpc

    igd = miniupnpc.UPnP()
    try:
        control = igd.selectigd(url)
    except Exception as error:  # the library raises no other class
        return {"error": str(error)}
    if urlsplit(control).hostname != urlsplit(url).hostname:
        return {"error": "the router names another host"}
    try:
        if lifetime == 0:
            delete(igd, protocol, host, internal, port)
            return {}
        chosen = random.SystemRandom()
        external, port, kept = map_port(
            igd, protocol, host, internal, port, lifetime, lambda: chosen.randrange(1024, 65536)
        )
    except Refused as refused:
        return {"error": str(refused)}
    if kept == 0:
        delete_old(igd, host, lambda protocol, port: _is_free(host, protocol, port))
    return {"host": external, "port": port, "lifetime": kept}


def main(directory: str, request: str) -> None:
    """
    Run it: print one JSON object.

    :param directory: where miniupnpc is.
    :param request: a JSON array of the arguments of `_perform`.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(TIME)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.path.append(directory)
    print(json.dumps(_perform(*json.loads(request))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
